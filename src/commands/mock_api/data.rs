//! The made-up readings: each is a function of the seed and its number, so the same seed gives the same bytes.

use axum::http::HeaderValue;
use serde::{Deserialize, Serialize};

/// Noon of the first day; each reading is a minute after the one before.
const FIRST_TAKEN_AT: i64 = 1_767_268_800;

/// Where the sensors stand.
const SITES: [Site; 4] = [
    Site { city: "Lisboa", country: "PT" },
    Site { city: "Sevilla", country: "ES" },
    Site { city: "Łódź", country: "PL" },
    Site { city: "Reykjavík", country: "IS" },
];

/// A page as text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    #[default]
    Json,
    Jsonl,
    Csv,
}

impl Format {
    pub fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Format::Json => "application/json",
            Format::Jsonl => "application/x-ndjson",
            Format::Csv => "text/csv; charset=utf-8",
        })
    }
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Site {
    city: &'static str,
    country: &'static str,
}

#[derive(Debug, Serialize)]
struct Reading {
    id: u64,
    sensor: String,
    taken_at: String,
    /// Missing now and then, as it is in life.
    temperature_c: Option<f64>,
    humidity_percent: u64,
    status: &'static str,
    site: Site,
}

/// A page as JSON; `next` only where pages follow one another.
#[derive(Debug, Serialize)]
struct Page<'a> {
    page: u32,
    items: &'a [Reading],
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Option<&'a str>>,
}

/// The seeded readings, page by page.
#[derive(Debug, Clone, Copy)]
pub struct Data {
    pub seed: u64,
    pub pages: u32,
    pub records: u32,
}

impl Data {
    /// The bytes of a page, empty of records beyond the last; `next` is told in JSON alone.
    pub fn page(&self, page: u32, format: Format, next: Option<Option<&str>>) -> Result<Vec<u8>, csv::Error> {
        let count = if page <= self.pages { u64::from(self.records) } else { 0 };
        let first = u64::from(page.saturating_sub(1)) * u64::from(self.records) + 1;
        let items: Vec<_> = (first..first + count).map(|id| self.reading(id)).collect();
        match format {
            Format::Json => serde_json::to_vec(&Page { page, items: &items, next }).map_err(in_json),
            Format::Jsonl => items.iter().try_fold(Vec::new(), |mut lines, item| {
                serde_json::to_writer(&mut lines, item).map_err(in_json)?;
                lines.push(b'\n');
                Ok(lines)
            }),
            Format::Csv => table(&items),
        }
    }

    /// A number between 0 and 1 that is the page's own.
    pub fn share(&self, page: u32) -> f64 {
        (mix(!self.seed, u64::from(page)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn reading(&self, id: u64) -> Reading {
        let random = mix(self.seed, id);
        let tenths = (random % 650) as i64 - 200;
        let sensor = random >> 16 & 0xff;
        let taken_at =
            chrono::DateTime::from_timestamp(FIRST_TAKEN_AT + 60 * (id as i64), 0).unwrap_or_default();
        Reading {
            id,
            sensor: format!("sensor-{sensor:03}"),
            taken_at: taken_at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
            temperature_c: (random >> 24 & 0x3f != 0).then_some(tenths as f64 / 10.0),
            humidity_percent: (random >> 32) % 101,
            status: ["ok", "ok", "ok", "low_battery"][(random >> 40) as usize % 4],
            site: SITES[sensor as usize % SITES.len()],
        }
    }
}

fn in_json(error: serde_json::Error) -> csv::Error {
    std::io::Error::from(error).into()
}

fn table(items: &[Reading]) -> Result<Vec<u8>, csv::Error> {
    let mut table = csv::Writer::from_writer(Vec::new());
    table.write_record([
        "id",
        "sensor",
        "taken_at",
        "temperature_c",
        "humidity_percent",
        "status",
        "city",
        "country",
    ])?;
    for item in items {
        let temperature = item.temperature_c.map(|value| value.to_string()).unwrap_or_default();
        table.write_record([
            item.id.to_string().as_str(),
            &item.sensor,
            &item.taken_at,
            &temperature,
            &item.humidity_percent.to_string(),
            item.status,
            item.site.city,
            item.site.country,
        ])?;
    }
    table.into_inner().map_err(|error| error.into_error().into())
}

/// SplitMix64 (Steele, Lea, Flood 2014): a number from seed and place, the same on every machine and in every release.
fn mix(seed: u64, place: u64) -> u64 {
    let state = seed.wrapping_add(place.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let state = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ state >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ state >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: Data = Data { seed: 7, pages: 3, records: 40 };

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
        let page = |data: Data| data.page(2, Format::Json, None).unwrap();
        assert_eq!(page(DATA), page(DATA));
        assert_ne!(page(DATA), page(Data { seed: 8, ..DATA }));
    }

    #[test]
    fn the_three_formats_tell_the_same_records() {
        let json: serde_json::Value =
            serde_json::from_slice(&DATA.page(3, Format::Json, None).unwrap()).unwrap();
        let lines = String::from_utf8(DATA.page(3, Format::Jsonl, None).unwrap()).unwrap();
        let table = DATA.page(3, Format::Csv, None).unwrap();
        let ids: Vec<_> =
            json["items"].as_array().unwrap().iter().map(|item| item["id"].to_string()).collect();
        assert_eq!((ids.len(), ids[0].as_str(), ids[39].as_str()), (40, "81", "120"));
        assert!(lines.lines().zip(&ids).all(|(line, id)| line.starts_with(&format!("{{\"id\":{id},"))));
        let column: Vec<_> =
            csv::Reader::from_reader(&table[..]).records().map(|row| row.unwrap()[0].to_owned()).collect();
        assert_eq!(column, ids);
    }
}

//! Figures of repeated runs, and the time that processes spent on a processor (Linux).

use std::path::Path;

/// Ticks of `/proc/PID/stat` in a second: the value of USER_HZ on every common Linux.
const TICKS_A_SECOND: f64 = 100.0;

/// Values of the runs of one measurement.
#[derive(Debug, Default, Clone)]
pub struct Figures(Vec<f64>);

impl Figures {
    /// Adds the value of a run.
    pub fn add(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    /// The value that `part` (0 to 1) of all values do not exceed, by nearest rank; not a number without values.
    pub fn at(&self, part: f64) -> f64 {
        let rank = (part * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }

    /// How many values there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The smallest value.
    pub fn least(&self) -> f64 {
        self.at(0.0)
    }

    /// The middle value.
    pub fn median(&self) -> f64 {
        self.at(0.5)
    }

    /// The largest value.
    pub fn most(&self) -> f64 {
        self.at(1.0)
    }
}

/// Seconds that a process and its ended children spent on a processor, not a number when it cannot be read.
pub fn processor_seconds(process: &str) -> f64 {
    let told = std::fs::read_to_string(Path::new("/proc").join(process).join("stat")).unwrap_or_default();
    // The fields after the name, which may itself hold blanks: utime, stime, cutime, cstime are 14 to 17.
    let Some((_, fields)) = told.rsplit_once(')') else {
        return f64::NAN;
    };
    let ticks: Option<Vec<f64>> =
        fields.split(' ').skip(12).take(4).map(|field| field.parse().ok()).collect();
    ticks.map_or(f64::NAN, |ticks| ticks.iter().sum::<f64>() / TICKS_A_SECOND)
}

/// The most memory that this process had resident, in bytes.
pub fn peak_resident_bytes() -> Option<u64> {
    let told = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = told.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_of_the_nearest_value() {
        let mut figures = Figures::default();
        for value in [5.0, 1.0, 3.0, 2.0, 4.0] {
            figures.add(value);
        }
        assert_eq!((figures.least(), figures.median(), figures.most()), (1.0, 3.0, 5.0));
        assert_eq!(figures.at(0.95), 5.0);
        assert_eq!(figures.at(0.2), 1.0);
    }
}

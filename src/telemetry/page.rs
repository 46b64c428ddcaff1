//! Writes docs/metrics.md from what each role registers, and holds the page to it: `UPDATE_EXPECTED=1` renews it.

use std::collections::BTreeMap;
use std::fmt::Write;

use prometheus::Registry;
use prometheus::core::Collector;

use super::queue::QueueGauges;
use super::server::ready_gauge;
use crate::roles::notifier::notices_counter;
use crate::roles::processor::swept_counter;

const HEAD: &str = "\
# Metrics

Written by a test from what the roles register; [operations.md](operations.md#metrics) tells what to look at first.
Each role shows its metrics at `/metrics`: the gateway at `gateway.listen`, the others at `telemetry.listen`. Histograms have
`_bucket`, `_sum` and `_count` behind their names.

| name | type | labels | what it tells | by |
|---|---|---|---|---|
";

type Roles = Vec<(&'static str, Vec<Box<dyn Collector>>)>;

/// What each role registers, as the roles do.
fn roles() -> prometheus::Result<Roles> {
    let scratch = Registry::new();
    let queue = QueueGauges::new()?;
    let gateway = tidemill_gateway::Metrics::register(&scratch)?;
    let processor = tidemill_processor::Metrics::new(&scratch)?;
    let fetcher = tidemill_ingest::FetchMetrics::new(&scratch)?;
    let with = |mut own: Vec<Box<dyn Collector>>, of_groups| {
        own.extend(queue.collectors(of_groups));
        own
    };
    let mut of_gateway = gateway.collectors();
    of_gateway.extend(tidemill_query::Metrics::new()?.collectors());
    let mut of_processor: Vec<Box<dyn Collector>> = processor.collectors();
    of_processor.push(Box::new(swept_counter()?));
    of_processor.push(Box::new(ready_gauge()?));
    let mut of_fetcher = fetcher.collectors();
    of_fetcher.extend(tidemill_ingest::CollectMetrics::new(&scratch)?.collectors());
    of_fetcher.push(Box::new(ready_gauge()?));
    Ok(vec![
        ("gateway", with(of_gateway, true)),
        ("processor", with(of_processor, true)),
        ("fetcher", with(of_fetcher, false)),
        ("notifier", with(vec![Box::new(notices_counter()?), Box::new(ready_gauge()?)], true)),
    ])
}

fn page() -> String {
    let mut rows: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (role, collectors) in roles().unwrap() {
        for collector in collectors {
            let kind = format!("{:?}", collector.collect()[0].get_field_type()).to_lowercase();
            for about in collector.desc() {
                let labels: Vec<_> = about.variable_labels.iter().map(|label| format!("`{label}`")).collect();
                let row =
                    format!("| `{}` | {kind} | {} | {} |", about.fq_name, labels.join(", "), about.help);
                rows.entry(row).or_default().push(role);
            }
        }
    }
    let mut text = HEAD.to_owned();
    for (row, roles) in rows {
        writeln!(text, "{row} {} |", roles.join(", ")).unwrap();
    }
    text
}

#[test]
fn the_page_of_metrics_tells_what_the_roles_register() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let told = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(told, page(), "run the test again with UPDATE_EXPECTED=1");
}

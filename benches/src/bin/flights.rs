//! Measures the way from an object to a committed table: all 336,776 flights by the processor, and in turns by
//! LOAD DATA LOCAL of the `mariadb` client from the same file into the same table. Then the most memory that a
//! processor has resident for the file and for ten times the file.
//!
//! `make bench`, or `tests/servers/servers with target/release/flights [ROUNDS]`

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tidemill_benches::database::Database;
use tidemill_benches::figures::{Figures, peak_resident_bytes, processor_seconds};
use tidemill_benches::file::{FLIGHTS_ROWS, write_flights};
use tidemill_benches::plant::Plant;
use tidemill_jobs::JobId;
use tidemill_pipelines::{ColumnType, Pipeline};

const ROUNDS: usize = 5;
/// The most that the processor may take of what the client takes.
const RATIO_MAX: f64 = 1.3;
/// The most that a processor may have resident, in MB.
const RESIDENT_MAX: f64 = 300.0;
/// The first argument of the process whose memory is measured.
const WORK: &str = "--work";

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, database, folder, job] = arguments.as_slice()
        && first == WORK
    {
        return work(database, Path::new(folder), job).await;
    }
    let rounds = arguments.first().map_or(Ok(ROUNDS), |text| text.parse()).context("ROUNDS is no number")?;
    let folder = tempfile::Builder::new().prefix("bench-flights-").tempdir()?;
    let mut database = Database::make("flights").await?;
    let measured = measure(&mut database, folder.path(), rounds).await;
    database.drop_it().await?;
    measured
}

async fn measure(database: &mut Database, folder: &Path, rounds: usize) -> Result<()> {
    let plant = Plant::open(&database.url, folder).await?;
    speed(&plant, database, folder, rounds).await?;
    for times in [1, 10] {
        memory(&plant, database, folder, times).await?;
    }
    Ok(())
}

/// Figures of one of the two ways.
#[derive(Default)]
struct Way {
    seconds: Figures,
    client_processor: Figures,
    server_processor: Figures,
}

impl Way {
    fn tell(&self, name: &str) {
        println!(
            "{name}: median {:.3} s ({:.3} to {:.3}); on a processor {:.2} s, the database server {:.2} s",
            self.seconds.median(),
            self.seconds.least(),
            self.seconds.most(),
            self.client_processor.median(),
            self.server_processor.median()
        );
    }
}

async fn speed(plant: &Plant, database: &mut Database, folder: &Path, rounds: usize) -> Result<()> {
    let file = folder.join("flights.csv");
    write_flights(&file, 1)?;
    let running = plant.start().await?;
    let statement = load_data(plant.pipeline("flights")?, &file);
    let (mut ours, mut theirs) = (Way::default(), Way::default());
    // The first round makes the table and is not counted.
    for round in 0..=rounds {
        let (mut ignored_ours, mut ignored_theirs) = (Way::default(), Way::default());
        let counted = round > 0;
        let (ours, theirs) =
            if counted { (&mut ours, &mut theirs) } else { (&mut ignored_ours, &mut ignored_theirs) };
        if counted {
            database.run("TRUNCATE TABLE flights").await?;
        }
        by_processor(plant, &file, ours).await?;
        let sum = checked(database).await?;
        database.run("TRUNCATE TABLE flights").await?;
        by_client(database, &statement, theirs)?;
        ensure!(checked(database).await? == sum, "the two ways wrote different rows");
    }
    running.stop().await?;
    println!("{FLIGHTS_ROWS} flights (31 MB) into an empty table, {rounds} rounds in turns:");
    theirs.tell("  LOAD DATA LOCAL by the client");
    ours.tell("  the processor, landed to finished");
    println!(
        "  ratio of medians {:.2}, of the best {:.2} (at most {RATIO_MAX} wanted)",
        ours.seconds.median() / theirs.seconds.median(),
        ours.seconds.least() / theirs.seconds.least()
    );
    Ok(())
}

/// Time of the job by its own account: from the moment it landed, with the commit that says so, the event and
/// the claim, to the moment its end was written.
async fn by_processor(plant: &Plant, file: &Path, way: &mut Way) -> Result<()> {
    let (used, server) = (processor_seconds("self"), server_seconds());
    let id = plant.land("flights", file).await?;
    let job = plant.ended(id).await?;
    way.client_processor.add(processor_seconds("self") - used);
    way.server_processor.add(server_seconds() - server);
    ensure!(job.counts.records_written == FLIGHTS_ROWS, "{:?} are not all flights", job.counts);
    let finished = job.finished_at.context("the job has no end")?;
    way.seconds.add((finished - job.created_at).as_seconds_f64());
    plant.forget(&job).await
}

/// Time of the statement alone, without the client's start.
fn by_client(database: &Database, statement: &str, way: &mut Way) -> Result<()> {
    let (used, server) = (processor_seconds("self"), server_seconds());
    let told = database.by_client(&format!(
        "SET @begun = SYSDATE(6); {statement}; SELECT TIMESTAMPDIFF(MICROSECOND, @begun, SYSDATE(6))"
    ))?;
    way.client_processor.add(processor_seconds("self") - used);
    way.server_processor.add(server_seconds() - server);
    let microseconds: f64 = told.parse().with_context(|| format!("the client told `{told}`"))?;
    way.seconds.add(microseconds / 1e6);
    Ok(())
}

/// Processor time of the database server, when the servers of the test script are used.
fn server_seconds() -> f64 {
    let Ok(folder) = std::env::var("TIDEMILL_TEST_SERVERS_DIR") else {
        return f64::NAN;
    };
    let process = std::fs::read_to_string(Path::new(&folder).join("mariadb.pid")).unwrap_or_default();
    processor_seconds(process.trim())
}

/// What an expert writes by hand, for the columns of the pipeline.
fn load_data(pipeline: &Pipeline, file: &Path) -> String {
    let (mut fields, mut sets) = (Vec::new(), Vec::new());
    for column in &pipeline.columns {
        let name = &column.name;
        let set = match (&column.kind, column.required) {
            (ColumnType::Timestamp { .. }, _) => Some(format!("`{name}` = LEFT(@{name}, 19)")),
            (_, false) => Some(format!("`{name}` = NULLIF(@{name}, 'NA')")),
            _ => None,
        };
        fields.push(set.as_ref().map_or(format!("`{name}`"), |_| format!("@{name}")));
        sets.extend(set);
    }
    format!(
        "LOAD DATA LOCAL INFILE '{}' INTO TABLE flights CHARACTER SET utf8mb4 FIELDS TERMINATED BY ',' \
         LINES TERMINATED BY '\\n' IGNORE 1 LINES ({}) SET {}",
        file.display(),
        fields.join(", "),
        sets.join(", ")
    )
}

/// The checksum of the table, once it holds every flight; it does not depend on the order of rows.
async fn checked(database: &mut Database) -> Result<Option<String>> {
    let rows: Option<u64> = database.value("SELECT COUNT(*) FROM flights").await?;
    ensure!(rows == Some(FLIGHTS_ROWS), "{rows:?} rows are not all flights");
    let sum = "SELECT CONCAT_WS(' ', SUM(CRC32(CONCAT_WS(',', year, month, day, dep_time, sched_dep_time, dep_delay, \
               arr_time, sched_arr_time, arr_delay, carrier, flight, tailnum, origin, dest, air_time, distance, hour, \
               minute, time_hour))), COUNT(dep_time), COUNT(arr_delay), COUNT(tailnum), COUNT(air_time)) FROM flights";
    database.value(sum).await
}

/// Lands `times` the file, and lets another process do the rest of the job.
async fn memory(plant: &Plant, database: &mut Database, folder: &Path, times: usize) -> Result<()> {
    database.run("TRUNCATE TABLE flights").await?;
    let file: PathBuf = folder.join("many.csv");
    write_flights(&file, times)?;
    let id = plant.land("flights", &file).await?;
    let done = Command::new(std::env::current_exe()?)
        .arg(WORK)
        .arg(&database.url)
        .arg(folder)
        .arg(id.to_string())
        .output()?;
    let told = String::from_utf8_lossy(&done.stdout).trim().to_owned();
    let why = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "the process ended with {}: {why}", done.status);
    let job = plant.ended(id).await?;
    let rows = FLIGHTS_ROWS * times as u64;
    ensure!(job.counts.records_written == rows, "{:?} are not {rows} flights", job.counts);
    let (began, ended) = (job.started_at.context("never begun")?, job.finished_at.context("never ended")?);
    println!(
        "memory: {rows} flights ({} MB) in {:.1} s: {told} MB resident at most (under {RESIDENT_MAX} wanted)",
        job.size_bytes / 1_000_000,
        (ended - began).as_seconds_f64()
    );
    std::fs::remove_file(file)?;
    plant.forget(&job).await
}

/// A processor in a process of its own: works on the one job that waits and tells its peak of memory.
async fn work(database_url: &str, folder: &Path, job: &str) -> Result<()> {
    let plant = Plant::open(database_url, folder).await?;
    let running = plant.start().await?;
    let job: JobId = job.parse().map_err(|_| anyhow::anyhow!("`{job}` is no job"))?;
    plant.ended(job).await?;
    running.stop().await?;
    let bytes = peak_resident_bytes().context("failed to read the peak of memory")?;
    println!("{:.0}", bytes as f64 / 1e6);
    Ok(())
}

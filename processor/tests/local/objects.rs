//! Jobs over many objects, JSON, and files as sinks: a processor of real parts on SQLite, from event to commit.

use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tempfile::TempDir;
use tidemill_jobs::{
    EmbeddedLog, EventLog, Fingerprint, Job, JobId, JobStatus, JobStore, NewJob, Relay, StoreLimits,
};
use tidemill_pipelines::{Duplicates, PipelineSet};
use tidemill_processor::{Metrics, ProcessorLimits, ProcessorParts, Report, serve, verify};
use tidemill_sinks::{Sink, SinkLimits};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const LOOK: Duration = Duration::from_millis(20);

pub struct Plant {
    pub jobs: JobStore,
    pub objects: Arc<dyn ObjectStore>,
    sink: Arc<dyn Sink>,
    set: Arc<PipelineSet>,
    shutdown: CancellationToken,
    /// Relay and processor.
    roles: JoinSet<()>,
    _folder: TempDir,
}

async fn plant(yaml: &str) -> Plant {
    plant_of(&[("readings", yaml)]).await
}

/// A relay and a processor that know these pipelines.
pub async fn plant_of(pipelines: &[(&str, &str)]) -> Plant {
    let folder = TempDir::new().unwrap();
    let file = |name: &str| folder.path().join(name);
    let url = |name: &str| format!("sqlite://{}", file(name).display());
    let jobs = JobStore::connect(&url("jobs.db"), StoreLimits::default()).await.unwrap();
    jobs.migrate().await.unwrap();
    let sink = tidemill_sinks::connect(&url("tables.db"), SinkLimits::default()).await.unwrap();
    let log: Arc<dyn EventLog> = Arc::new(EmbeddedLog::open(&file("events.db"), 1).await.unwrap());
    log.create_topics().await.unwrap();
    let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let files = pipelines.iter().map(|(name, yaml)| (format!("{name}.yaml"), (*yaml).to_owned()));
    let set = Arc::new(PipelineSet::from_files(files.collect()).unwrap());
    let shutdown = CancellationToken::new();
    let parts = ProcessorParts {
        pipelines: Arc::clone(&set),
        jobs: jobs.clone(),
        log: Arc::clone(&log),
        objects: Arc::clone(&objects),
        sink: Arc::clone(&sink),
        limits: ProcessorLimits::default(),
        metrics: Metrics::new(&prometheus::Registry::new()).unwrap(),
        worker: "test".to_owned(),
    };
    let mut roles = JoinSet::new();
    let relay = Relay::new(jobs.clone(), log);
    let stop = shutdown.clone();
    roles.spawn(async move { relay.run(stop).await });
    let stop = shutdown.clone();
    roles.spawn(async move { serve(parts, stop).await.unwrap() });
    Plant { jobs, objects, sink, set, shutdown, roles, _folder: folder }
}

impl Plant {
    /// Puts these objects and lands them as one job; gives the job at its end.
    async fn run(&self, objects: &[(&str, &str)]) -> Job {
        let mut print = Fingerprint::default();
        for (key, text) in objects {
            let put = self.objects.put(&Path::from(*key), text.to_string().into()).await.unwrap();
            print.add(key, text.len() as u64, put.e_tag.as_deref());
        }
        self.land(objects, print.finish()).await
    }

    /// Lands objects that are there as one job; gives the job at its end.
    async fn land(&self, objects: &[(&str, &str)], content_sha256: String) -> Job {
        let new = NewJob {
            job_id: JobId::new(),
            pipeline: "readings".parse().unwrap(),
            files: objects.iter().map(|(key, _)| (*key).to_owned()).collect(),
            file_name: None,
            size_bytes: objects.iter().map(|(_, text)| text.len() as u64).sum(),
            content_sha256,
            parameters: Default::default(),
            pushed: Vec::new(),
            takes_turns: false,
            last_wins: false,
            sender: "ana".to_owned(),
            idempotency_key: None,
            duplicates: Duplicates::Accept,
        };
        let job = new.job_id;
        self.jobs.land(new).await.unwrap();
        loop {
            let job = self.jobs.get(job).await.unwrap().unwrap();
            if job.status.has_ended() {
                return job;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn text(&self, key: &str) -> String {
        let bytes = self.objects.get(&Path::from(key)).await.unwrap().bytes().await.unwrap();
        String::from_utf8(bytes.into()).unwrap()
    }

    async fn report(&self, job: &Job) -> Report {
        serde_json::from_str(&self.text(job.report_file_path.as_deref().unwrap()).await).unwrap()
    }

    /// What verifying the job finds wrong.
    async fn differences(&self, job: &Job) -> Vec<String> {
        let pipeline = self.set.get(&job.pipeline).unwrap();
        let limits = ProcessorLimits::default();
        let verified = verify(job, pipeline, &self.set, &self.objects, &self.sink, &limits).await.unwrap();
        verified.differences
    }

    pub async fn stop(mut self) {
        self.shutdown.cancel();
        while let Some(ended) = self.roles.join_next().await {
            ended.unwrap();
        }
    }
}

const CSV: &str = "
pipeline: readings
columns:
  - { name: id, type: int64 }
  - { name: name, type: text }
rejects: { tolerate: 50%, then: continue }
steps:
  - check: { name: positive, where: \"id > 0\", else: reject }
sinks:
  - table: { name: readings, key: [id], mode: upsert }
  - file: { name: report.csv }
";

#[tokio::test]
async fn each_object_of_a_job_is_a_file_of_its_own_with_header_and_lines() {
    let plant = plant(CSV).await;
    let job = plant
        .run(&[
            ("pushed/1.csv", "id,name\n1,a\n2,b"),
            ("pushed/2.csv", "name,id\nc,x\nd,-4\ne,5\n"),
            ("pushed/3.csv", ""),
            ("pushed/4.csv", "id,name\n"),
            ("pushed/5.csv", "id,name\n6,\"f, g\"\n"),
        ])
        .await;
    assert_eq!(job.status, JobStatus::Success, "{:?}", job.error);
    assert_eq!((job.counts.records_in, job.counts.records_written, job.counts.records_rejected), (6, 4, 2));
    let report = plant.report(&job).await;
    let rejects = plant.text(report.rejects_file_path.as_deref().unwrap()).await;
    let mut reader = csv::Reader::from_reader(rejects.as_bytes());
    assert_eq!(&reader.headers().unwrap()[9], "file");
    let told: Vec<_> = reader
        .records()
        .map(|record| record.unwrap())
        .map(|record| format!("{} {} {} {}", &record[0], &record[3], &record[5], &record[9]))
        .collect();
    assert_eq!(told, ["2 id type pushed/2.csv", "3  positive pushed/2.csv"]);
    assert!(report.rejects.iter().all(|reject| reject.file.as_deref() == Some("pushed/2.csv")));
    let [artifact] = &report.artifacts[..] else { panic!("{:?}", report.artifacts) };
    assert_eq!((artifact.name.as_str(), artifact.size_bytes), ("report.csv", 29));
    let key = format!("jobs/{}/1/files/report.csv", job.job_id);
    assert_eq!(plant.text(&key).await, "id,name\n1,a\n2,b\n5,e\n6,\"f, g\"\n");
    assert_eq!(plant.differences(&job).await, Vec::<String>::new());
    plant.objects.put(&Path::from(key.as_str()), "id,name\n".into()).await.unwrap();
    assert_eq!(
        plant.differences(&job).await,
        ["the file `report.csv` is not the one that the report tells of"]
    );
    plant.objects.delete(&Path::from(key.as_str())).await.unwrap();
    assert_eq!(plant.differences(&job).await, ["the file `report.csv` is missing"]);
    plant.stop().await;
}

#[tokio::test]
async fn the_rejects_of_one_object_keep_their_columns() {
    let plant = plant(CSV).await;
    let job = plant.run(&[("pushed/1.csv", "id,name\n1,a\nx,b\n")]).await;
    let report = plant.report(&job).await;
    let rejects = plant.text(report.rejects_file_path.as_deref().unwrap()).await;
    assert!(
        rejects.starts_with("line,byte_start,byte_end,column,stage,code,message,problems,raw\n3,"),
        "{rejects}"
    );
    assert_eq!(report.rejects[0].file, None);
    plant.stop().await;
}

#[tokio::test]
async fn a_job_never_works_on_other_bytes_than_those_it_was_posted_with() {
    let plant = plant(CSV).await;
    let objects = [("pushed/1.csv", "id,name\n1,a\n"), ("pushed/2.csv", "id,name\n2,b\n")];
    let job = plant.run(&objects).await;
    assert_eq!(job.status, JobStatus::Success, "{:?}", job.error);
    // As long as the one before it, and written by who still has its signed URL.
    plant.objects.put(&Path::from("pushed/2.csv"), "id,name\n3,c\n".into()).await.unwrap();
    let late = plant.land(&objects, job.content_sha256.clone()).await;
    assert_eq!((late.status, late.counts.records_written), (JobStatus::Failed, 0));
    assert_eq!(late.error.unwrap().code, "object_changed");
    let pipeline = plant.set.get(&job.pipeline).unwrap();
    let limits = ProcessorLimits::default();
    let verified = verify(&job, pipeline, &plant.set, &plant.objects, &plant.sink, &limits).await;
    assert!(verified.unwrap_err().to_string().contains("overwritten"));
    plant.stop().await;
}

const REFUSED: &str = "
pipeline: readings
columns:
  - { name: id, type: int64 }
  - { name: name, type: text }
rejects: { tolerate: 80% }
steps:
  - sql: SELECT id, 10 / CAST(name AS bigint) AS tenth FROM input
sinks:
  - table: { name: readings, key: [id], mode: append }
  - file: { name: rows.csv }
";

#[tokio::test]
async fn what_sql_and_the_database_refuse_are_rejects_of_one_file() {
    let plant = plant(REFUSED).await;
    let job = plant.run(&[("pushed/1.csv", "id,name\n1,5\n1,2\n2,0\n3,x\n4,1\n1,10\n")]).await;
    assert_eq!(job.status, JobStatus::Success, "{:?}", job.error);
    let counts = job.counts;
    assert_eq!((counts.records_in, counts.records_written, counts.records_rejected), (6, 2, 4));
    assert_eq!((counts.records_filtered, plant.report(&job).await.rows_out), (0, 2));
    let text = plant.text(&format!("jobs/{}/1/rejects.csv", job.job_id)).await;
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let mut rejects: Vec<_> = reader
        .records()
        .map(|record| {
            let record = record.unwrap();
            [0, 4, 5, 8].map(|column| record[column].to_owned())
        })
        .collect();
    rejects.sort();
    assert_eq!(
        rejects,
        [
            ["3", "deliver", "row_refused", "1,2"],
            ["4", "sql", "sql_failed", "2,0"],
            ["5", "sql", "sql_failed", "3,x"],
            ["7", "deliver", "row_refused", "1,10"],
        ]
    );
    assert_eq!(plant.text(&format!("jobs/{}/1/files/rows.csv", job.job_id)).await, "id,tenth\n1,2\n4,10\n");
    assert_eq!(plant.differences(&job).await, Vec::<String>::new());
    plant.stop().await;
}

const TWO_TABLES: &str = "
pipeline: readings
columns:
  - { name: id, type: int64 }
  - { name: name, type: text }
sinks:
  - table: { name: readings, key: [id], mode: upsert }
  - table: { name: movements }
";

#[tokio::test]
async fn all_tables_of_a_job_commit_together_or_none() {
    let plant = plant(TWO_TABLES).await;
    let job = plant.run(&[("pushed/1.csv", "id,name\n1,a\n2,b\n")]).await;
    assert_eq!((job.status, job.counts.records_written), (JobStatus::Success, 2), "{:?}", job.error);
    assert_eq!(plant.differences(&job).await, Vec::<String>::new());
    let ledger = plant.sink.ledger(&job.job_id.to_string()).await.unwrap();
    let rows: Vec<_> = ledger.iter().map(|row| (row.table.as_str(), row.rows)).collect();
    assert_eq!(rows, [("movements", 2), ("readings", 2)]);
    // What fails leaves both as they were.
    let failed = plant.run(&[("pushed/2.csv", "id,name\n3,a\nx,b\n")]).await;
    assert_eq!((failed.status, failed.counts.records_written), (JobStatus::Failed, 0));
    assert_eq!(plant.sink.ledger(&failed.job_id.to_string()).await.unwrap(), []);
    assert_eq!(plant.differences(&failed).await, Vec::<String>::new());
    plant.stop().await;
}

#[tokio::test]
async fn a_file_that_cannot_be_read_makes_no_table() {
    let plant = plant(TWO_TABLES).await;
    for text in ["nr,name\n1,a\n", "id,name\nx,a\ny,b\n", "id,name\n"] {
        let job = plant.run(&[("pushed/1.csv", text)]).await;
        assert_eq!(job.status, JobStatus::Failed, "{text}");
        assert_eq!(plant.sink.tables().await.unwrap().len(), 0, "{text}");
    }
    plant.stop().await;
}

const PAGES: &str = "
pipeline: readings
format: { json: { records: \"$.items[*]\" } }
columns:
  - { name: id, type: int64 }
  - { name: city, type: text, path: $.site.city, required: false }
steps:
  - sql: SELECT city, count(*) AS readings FROM input GROUP BY city ORDER BY city
sinks:
  - file: { name: cities.csv }
  - file: { name: again.csv }
";

#[tokio::test]
async fn pages_of_json_become_files_where_no_table_is_written() {
    let plant = plant(PAGES).await;
    let page = |ids: [u32; 2], city: &str| {
        let item = |id| format!(r#"{{"id": {id}, "site": {{"city": "{city}"}}}}"#);
        format!(r#"{{"items": [{}, {}]}}"#, item(ids[0]), item(ids[1]))
    };
    let (first, second) = (page([1, 2], "Lisboa"), page([3, 4], "Łódź"));
    let empty = r#"{"items": []}"#;
    let job = plant.run(&[("p/1", &first), ("p/2", &second), ("p/3", empty), ("p/4", &first)]).await;
    assert_eq!(job.status, JobStatus::Success, "{:?}", job.error);
    assert_eq!((job.counts.records_in, job.counts.records_written, job.counts.records_filtered), (6, 6, 0));
    for name in ["cities.csv", "again.csv"] {
        let text = plant.text(&format!("jobs/{}/1/files/{name}", job.job_id)).await;
        assert_eq!(text, "city,readings\nLisboa,4\nŁódź,2\n");
    }
    assert_eq!(plant.differences(&job).await, Vec::<String>::new());
    plant.stop().await;
}

#[tokio::test]
async fn a_page_that_is_no_json_fails_the_job_and_is_named_and_leaves_no_file() {
    let plant = plant(PAGES).await;
    let good = r#"{"items": [{"id": 1}]}"#;
    for (bad, code, told) in [
        ("<!doctype html>\n<p>We will be back soon.", "not_json", "is HTML or XML, not JSON"),
        (r#"{"items": [{"id": 2}, {"id"#, "not_json", "ends in the middle, after 26 bytes"),
        (r#"{"error": "quota"}"#, "no_records_there", "at `$.items[*]` the document has nothing"),
    ] {
        let job = plant.run(&[("p/1", good), ("p/2", bad), ("p/3", good)]).await;
        let error = job.error.as_ref().unwrap();
        assert_eq!((job.status, error.code.as_str()), (JobStatus::Failed, code));
        assert!(error.message.starts_with("object `p/2` cannot be read: "), "{}", error.message);
        assert!(error.message.contains(told), "{}", error.message);
        let folder = Path::from(format!("jobs/{}/1/files", job.job_id));
        assert!(plant.objects.list_with_delimiter(Some(&folder)).await.unwrap().objects.is_empty());
    }
    plant.stop().await;
}

//! `tidemill jobs submit`: pushes files to the places that a gateway gives, and posts one job over them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use reqwest::Url;
use serde::Deserialize;
use serde_json::{Value, json};
use tidemill_jobs::{Job, JobStatus};

use super::send::{Gateway, answer, with_file};
use super::{print_json, print_text, status};
use crate::cli::SubmitArgs;

#[derive(Deserialize)]
struct Places {
    objects: Vec<Place>,
}

#[derive(Deserialize)]
struct Place {
    key: String,
    url: String,
    headers: BTreeMap<String, String>,
}

/// Pushes, posts, and waits when asked to; fails when the job does.
pub async fn run(args: &SubmitArgs, json: bool) -> Result<ExitCode> {
    let names: Vec<String> = args.files.iter().map(|file| name(file)).collect();
    for file in &args.files {
        std::fs::File::open(file).with_context(|| format!("failed to open `{}`", file.display()))?;
    }
    let gateway = Gateway::login(&args.login).await?;
    let path = format!("/v1/pipelines/{}/objects", args.pipeline);
    let places: Places = post(&gateway, &path, &json!({ "names": names }), None).await?;
    for ((file, name), place) in args.files.iter().zip(&names).zip(&places.objects) {
        push(&gateway, file, name, place)
            .await
            .with_context(|| format!("failed to push `{}`", file.display()))?;
    }
    let keys: Vec<&str> = places.objects.iter().map(|place| place.key.as_str()).collect();
    let parameters = parameters(&gateway, args).await?;
    let body = json!({ "pipeline": args.pipeline, "files_to_process": keys, "parameters": parameters });
    let mut job: Job = post(&gateway, "/v1/jobs", &body, args.idempotency_key.as_deref()).await?;
    if args.wait {
        job = gateway.wait(job).await?;
    }
    if json {
        print_json(&job)?;
    } else if args.wait {
        print_text(&gateway.describe(&job, 5).await?);
    } else {
        print_text(&format!("job {} is {}; it runs in its turn", job.job_id, job.status.as_str()));
    }
    Ok(status(job.status != JobStatus::Failed))
}

fn name(file: &Path) -> String {
    file.file_name().and_then(|name| name.to_str()).unwrap_or("upload").to_owned()
}

async fn post<T: serde::de::DeserializeOwned>(
    gateway: &Gateway,
    path: &str,
    body: &Value,
    key: Option<&str>,
) -> Result<T> {
    let mut request = gateway.client.post(format!("{}{path}", gateway.url)).bearer_auth(&gateway.token);
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    Ok(answer(request.json(body)).await?.json().await?)
}

/// A URL of the object store carries its own signature; the token is for the gateway alone.
async fn push(gateway: &Gateway, file: &Path, name: &str, place: &Place) -> Result<()> {
    let base = Url::parse(&gateway.url)?;
    let mut request = gateway.client.put(base.join(&place.url)?);
    if place.url.starts_with('/') {
        request = request.bearer_auth(&gateway.token);
    }
    for (header, value) in &place.headers {
        request = request.header(header, value);
    }
    with_file(request, file, name).await.map(drop)
}

/// The parameters in the types that the pipeline gives them; a text that fits none is left for the gateway to refuse.
async fn parameters(gateway: &Gateway, args: &SubmitArgs) -> Result<BTreeMap<String, Value>> {
    if args.parameter.is_empty() {
        return Ok(BTreeMap::new());
    }
    let url = format!("{}/v1/pipelines/{}", gateway.url, args.pipeline);
    let pipeline: Value = answer(gateway.client.get(url).bearer_auth(&gateway.token)).await?.json().await?;
    let declared = pipeline["parameters"].as_array().cloned().unwrap_or_default();
    let typed = |(name, text): &(String, String)| {
        let kind =
            declared.iter().find(|known| known["name"] == **name).and_then(|known| known["type"].as_str());
        let value = match kind {
            Some("int64" | "float64" | "bool") => serde_json::from_str(text).ok(),
            _ => None,
        };
        (name.clone(), value.unwrap_or_else(|| Value::from(text.as_str())))
    };
    Ok(args.parameter.iter().map(typed).collect())
}

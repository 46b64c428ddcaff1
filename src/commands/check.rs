//! `tidemill check`: every problem of settings and pipelines at once, without any server.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;
use tidemill_pipelines::Problem;
use tidemill_processor::{Engine, check_pipeline};

use super::{print_json, print_text, status};
use crate::cli::Role;
use crate::folder;
use crate::parts::Parts;
use crate::settings::{self, Purpose, Settings, SettingsProblem, Sources};

/// Checks; exit status 1 when there is a problem.
pub async fn run(sources: &Sources, role: Option<Role>, json: bool) -> Result<ExitCode> {
    let purpose = match role {
        None => Purpose::Command,
        Some(Role::Gateway) => Purpose::Gateway,
        Some(Role::Processor) => Purpose::Processor,
        Some(Role::Fetcher) => Purpose::Fetcher,
        Some(Role::Notifier) => Purpose::Notifier,
    };
    // With wrong settings the folder of the pipelines may still be right.
    let (settings, in_settings) = match settings::load(sources).settings_for(purpose) {
        Ok(settings) => (settings, Vec::new()),
        Err(wrong) => (settings::load(sources).settings_as_far_as_right(), wrong.0),
    };
    let (checked, in_pipelines) = check_folder(settings).await?;
    let well = in_settings.is_empty() && in_pipelines.is_empty();
    if json {
        print_json(
            &json!({ "pipelines": checked, "settings_problems": in_settings, "problems": in_pipelines }),
        )?;
    } else {
        tell(checked, &in_settings, &in_pipelines);
    }
    Ok(status(well))
}

/// Reads and plans the pipelines; how many there are, and what is wrong.
async fn check_folder(settings: Settings) -> Result<(usize, Vec<Problem>)> {
    let parts = Parts::new(settings);
    let set = match folder::read(&parts.settings().pipelines) {
        Ok(set) => set,
        Err(wrong) => return Ok((0, wrong.0)),
    };
    let engine = Engine::new(&parts.processor_limits())?;
    let mut problems = Vec::new();
    for pipeline in set.iter() {
        problems.extend(check_pipeline(&engine, pipeline, &set).await);
    }
    Ok((set.len(), problems))
}

fn tell(checked: usize, in_settings: &[SettingsProblem], in_pipelines: &[Problem]) {
    for problem in in_settings {
        print_text(&problem.to_string());
    }
    for problem in in_pipelines {
        print_text(&problem.to_string());
    }
    match in_settings.len() + in_pipelines.len() {
        0 => print_text(&format!("{checked} pipelines and the settings are right")),
        1 => print_text("1 problem"),
        count => print_text(&format!("{count} problems")),
    }
}

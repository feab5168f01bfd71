//! `alephlab config show`: every setting with its value and source, and the addresses of what runs.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::DataFlag;
use crate::data::DataFolder;
use crate::error::Result;
use crate::run_file;
use crate::settings::{self, KEYS, Loaded};

/// Show settings and where they come from.
#[derive(Args)]
pub(crate) struct Config {
    #[command(flatten)]
    data: DataFlag,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Show each setting, its value, its source, and the addresses of what runs.
    Show {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

impl Config {
    /// Prints the settings; starts and changes nothing.
    pub(crate) fn run(&self) -> Result<()> {
        let Action::Show { json } = self.action;
        let loaded = settings::load(&self.data.flags())?;
        let data = DataFolder::at(&loaded.settings.data.dir);
        let running = run_file::find(&data)?.map_or(Value::Null, |run| {
            json!({
                "pid": run.pid,
                "gateway_url": run.gateway_url,
                "aleph_url": run.aleph_url,
                "account": run.account,
                "runtime_dir": run.runtime_dir,
                "started": run.started,
            })
        });
        if json {
            println!("{}", json!({"settings": as_json(&loaded), "running": running}));
        } else {
            print!("{}", as_text(&loaded, &running));
        }
        Ok(())
    }
}

fn as_json(loaded: &Loaded) -> Map<String, Value> {
    let entry = |(key, about): &(&str, &str)| {
        let value = json!({"value": loaded.shown(key), "source": loaded.source(key), "about": about});
        ((*key).to_owned(), value)
    };
    KEYS.iter().map(entry).collect()
}

fn as_text(loaded: &Loaded, running: &Value) -> String {
    let plain = |value: &Value| match value {
        Value::Null => "(not set)".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut text = String::new();
    for (key, about) in KEYS {
        let value = plain(&loaded.shown(key));
        text.push_str(&format!("{key} = {value}\n    from: {}\n    {about}\n", loaded.source(key)));
    }
    match running.as_object() {
        None => text.push_str("\nnothing runs on this data folder\n"),
        Some(running) => {
            text.push_str("\nrunning now:\n");
            for (key, value) in running {
                text.push_str(&format!("    {key} = {}\n", plain(value)));
            }
        }
    }
    text
}

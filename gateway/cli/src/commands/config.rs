//! `alephlab config show`: every setting with its value and source, the log files, and the addresses of what runs.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::DataFlag;
use crate::error::Result;
use crate::settings::{self, KEYS, Loaded};
use crate::{logs, run_file};

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
    /// Show each setting, its value, its source, the log files, and the addresses of what runs.
    Show {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Print docs/configuration.md.
    #[command(hide = true)]
    Markdown,
}

impl Config {
    /// Prints the settings; starts and changes nothing.
    pub(crate) fn run(&self) -> Result<()> {
        let Action::Show { json } = self.action else {
            print!("{}", as_markdown());
            return Ok(());
        };
        let loaded = settings::load(&self.data.flags())?;
        let data = loaded.data();
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
        let logs = json!({"alephlab": logs::file(&data), "agent": data.agent_log()});
        if json {
            let all = json!({"settings": as_json(&loaded), "logs": logs, "running": running});
            println!("{all}");
        } else {
            print!("{}", as_text(&loaded, &logs, &running));
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

fn as_text(loaded: &Loaded, logs: &Value, running: &Value) -> String {
    let plain = |value: &Value| match value {
        Value::Null => "(not set)".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut text = String::new();
    for (key, about) in KEYS {
        let value = plain(&loaded.shown(key));
        text.push_str(&format!(
            "{key} = {value}\n    from: {}\n    {about}\n",
            loaded.source(key)
        ));
    }
    for (title, part) in [("log files", logs), ("running now", running)] {
        match part.as_object() {
            None => text.push_str("\nnothing runs on this data folder\n"),
            Some(part) => {
                text.push_str(&format!("\n{title}:\n"));
                for (key, value) in part {
                    text.push_str(&format!("    {key} = {}\n", plain(value)));
                }
            }
        }
    }
    text
}

/// `docs/configuration.md`, so that it cannot lag behind.
fn as_markdown() -> String {
    let mut text = String::from(
        "# Configuration\n\n\
         Written by `alephlab config markdown`; a test compares.\n\n\
         Defaults < `alephlab.toml` in the data folder < `alephlab.toml` in the current folder < environment < flags. \
         An unknown key is refused by name. `alephlab config show` says what is in force and where each value comes from.\n\n\
         | Setting | Environment | What it is |\n|---|---|---|\n",
    );
    for (key, about) in KEYS {
        text.push_str(&format!(
            "| `{key}` | `{}` | {about} |\n",
            settings::variable(key)
        ));
    }
    text.push_str(
        "\nIn the file, a setting's first part is its section:\n\n```toml\n[gateway]\nport = 8888\n```\n\n\
         `ALEPHLAB_LOG` sets the level of the logs (`error`, `warn`, `info`, `debug`, `trace`).\n\n\
         `ALEPHLAB_DEVICE` chooses where kernels that are started with it calculate: `auto` (a GPU where one can be used), `cpu`, \
         `cuda` or `cuda:NUMBER`. `ALEPHLAB_CUDA_LIBRARIES` names folders in which they look for CUDA's libraries first. \
         These two are no settings: they say something of the machine and the kernel that calculates, not of this gateway, and the \
         runtime reads them in the kernel itself, also where there is no gateway and no `alephlab.toml` (another Jupyter, a rented \
         host). Kernels of this machine have those of `alephlab up`; `env` in a kernelspec is for one kind of kernel.\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_page_lists_every_setting() {
        let page = include_str!("../../../../docs/configuration.md");
        assert_eq!(
            page,
            as_markdown(),
            "write it anew: alephlab config markdown > docs/configuration.md"
        );
    }
}

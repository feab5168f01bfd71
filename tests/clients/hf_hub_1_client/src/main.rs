//! The crate `hf-hub` 1.0 against a hub, step by step: for the tests with real clients.
//!
//! `hf_hub_1_client write OWNER NAME FOLDER` does what a publisher does, `read OWNER NAME FILE` what a reader does; where the hub is and
//! who asks stand in `HF_ENDPOINT` and `HF_TOKEN`. Prints a line of JSON a step.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use hf_hub::HFClientSync;
use hf_hub::repository::{AddSource, RepoTypeModel};
use serde_json::{Value, json};

type Failed = Box<dyn std::error::Error + Send + Sync>;
type Done = Result<Value, Failed>;

fn main() -> Result<(), Failed> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || {
        arguments
            .next()
            .ok_or("hf_hub_1_client write|read OWNER NAME FOLDER|FILE")
    };
    let (what, owner, name, last) = (next()?, next()?, next()?, next()?);
    let client = HFClientSync::new()?;
    match what.as_str() {
        "write" => write(&client, &owner, &name, Path::new(&last)),
        _ => read(&client, &owner, &name, &last),
    }
    Ok(())
}

fn write(client: &HFClientSync, owner: &str, name: &str, folder: &Path) {
    let (id, repo) = (format!("{owner}/{name}"), client.model(owner, name));
    step("whoami, wrong token, no token", || {
        Ok(json!(client.whoami().send()?.username))
    });
    step("create repo", || {
        client
            .create_repository()
            .repo_id(&id)
            .repo_type(RepoTypeModel)
            .private(false)
            .send()?;
        client
            .create_repository()
            .repo_id(&id)
            .repo_type(RepoTypeModel)
            .exist_ok(true)
            .send()?;
        Ok(json!(repo.exists().send()?))
    });
    step("upload file (regular)", || {
        let source = AddSource::bytes(b"{\"model_type\": \"gpt2\"}".to_vec());
        let done = repo
            .upload_file()
            .source(source)
            .path_in_repo("config.json")
            .send()?;
        Ok(json!(done.commit_oid))
    });
    step("upload folder (regular and large)", || {
        let done = repo.upload_folder().folder_path(folder.to_owned()).send()?;
        Ok(json!(done.commit_oid))
    });
    step("tree and file facts", || {
        let info = repo.info().send()?;
        let entries = repo.list_tree().recursive(true).send()?;
        let total = info.safetensors.map(|weights| weights.total);
        Ok(json!({ "entries": entries.len(), "sha": info.sha, "total": total }))
    });
    step("tags, branches, refs, history", || {
        repo.create_tag().tag("v1").send()?;
        let tags = repo.list_refs().send()?.tags.len();
        repo.delete_tag().tag("v1").send()?;
        let commits = repo.list_commits().send()?.len();
        Ok(json!({ "tags": tags, "commits": commits }))
    });
    step("delete file", || {
        Ok(json!(repo.delete_file().path_in_repo("config.json").send()?.commit_oid))
    });
}

fn read(client: &HFClientSync, owner: &str, name: &str, file: &str) {
    let repo = client.model(owner, name);
    step("tree and file facts", || Ok(json!(repo.info().send()?.sha)));
    step("download file", || {
        Ok(path(repo.download_file().filename(file).send()?))
    });
    step("download snapshot", || Ok(path(repo.snapshot_download().send()?)));
}

fn path(path: PathBuf) -> Value {
    json!(path)
}

fn step(name: &str, run: impl FnOnce() -> Done) {
    let line = match run() {
        Ok(found) => json!({ "step": name, "ok": true, "found": found }),
        Err(error) => json!({ "step": name, "ok": false, "why": format!("{error}: {error:?}") }),
    };
    println!("{line}");
}

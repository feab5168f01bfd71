//! The crate `hf-hub`, which candle's examples download by, against a hub: for the tests with real clients.
//!
//! `hf_hub_client URL REPO FILE [TOKEN]` prints what it found in one line of JSON.
#![forbid(unsafe_code)]

use hf_hub::api::sync::ApiBuilder;

type Failed = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failed> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("hf_hub_client URL REPO FILE [TOKEN]");
    let (url, repo, file) = (next()?, next()?, next()?);
    let api = ApiBuilder::from_env()
        .with_endpoint(url)
        .with_progress(false)
        .with_token(next().ok())
        .build()?;
    let repo = api.model(repo);
    let info = repo.info()?;
    let files: Vec<_> = info
        .siblings
        .into_iter()
        .map(|sibling| sibling.rfilename)
        .collect();
    let path = repo.get(&file)?;
    println!(
        "{}",
        serde_json::json!({ "sha": info.sha, "files": files, "path": path })
    );
    Ok(())
}

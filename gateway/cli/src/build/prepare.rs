//! The phases before anything can start: check the toolchain, build what is missing, say what is lost.

use std::path::PathBuf;
use std::sync::Arc;

use alephlab_api::agent::Engine;
use tokio_util::sync::CancellationToken;

use super::cache::InUse;
use super::programs::Programs;
use super::{cache, programs, source, template, toolchain};
use crate::error::Result;
use crate::progress::Reporter;
use crate::settings::Settings;
use crate::stop::or_stop;

/// What a kernel needs to start.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    /// Our programs.
    pub programs: Programs,
    /// The runtime template.
    pub runtime_dir: PathBuf,
    /// What compiles cells where the kernelspec leaves it open.
    pub engine: Engine,
    /// Keeps the template from being removed, when it lies in the cache folder.
    pub in_use: Option<Arc<InUse>>,
    /// The workspace, when there is one.
    pub root: Option<PathBuf>,
}

/// Brings everything up to date, showing each phase.
pub(crate) async fn prepare(
    settings: &Settings,
    reporter: &Reporter,
    stop: &CancellationToken,
) -> Result<Prepared> {
    let root = source::find(settings)?;
    or_stop(stop, "checking the toolchain", check(root.as_deref(), reporter)).await?;
    let programs = or_stop(
        stop,
        "building the programs",
        Box::pin(build(root.as_deref(), reporter)),
    )
    .await?;
    let runtime_dir = template::folder(settings, root.as_deref())?;
    let work = async {
        let phase = reporter.phase("runtime", "looking for the prebuilt runtime");
        let show = |step: &template::Step| phase.progress(step.done, step.total, &step.phase);
        let in_use = InUse::of(&runtime_dir)?.map(Arc::new);
        let built = template::ensure(&runtime_dir, root.as_deref(), &programs, show).await?;
        phase.finish(if built { "built" } else { "already built" });
        if in_use.is_some() {
            cache::prune(&runtime_dir).await;
        }
        Ok(in_use)
    };
    let in_use = or_stop(stop, "building the runtime", Box::pin(work)).await?;
    Ok(Prepared {
        programs,
        runtime_dir,
        engine: settings.kernel.engine,
        in_use,
        root,
    })
}

async fn check(root: Option<&std::path::Path>, reporter: &Reporter) -> Result<()> {
    let phase = reporter.phase("toolchain", "checking rustc and the C compiler");
    let found = toolchain::check(root).await?;
    toolchain::require_c_compiler().await?;
    if !found.has_rust_src {
        phase.progress(0, 0, "adding rust-src");
        if !toolchain::add_rust_src(&found, root).await {
            let lost = toolchain::WITHOUT_RUST_SRC;
            phase.say(&format!("rust-src is missing and could not be added: {lost}"));
            phase.say("to add it later: rustup component add rust-src");
        }
    }
    phase.finish(&format!("rustc {}", found.version));
    Ok(())
}

async fn build(root: Option<&std::path::Path>, reporter: &Reporter) -> Result<Programs> {
    let phase = reporter.phase("programs", "building kernel, broker and agent");
    let programs = programs::ensure(root, |step| phase.progress(step.done, step.total, step.name)).await?;
    phase.finish("kernel, broker and agent are up to date");
    Ok(programs)
}

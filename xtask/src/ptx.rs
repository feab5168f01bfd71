//! `cargo xtask ptx`: candle's CUDA kernels and our own, as PTX that the runtime embeds.
//!
//! Sources are those of the `candle-kernels` on crates.io that candle wants (which the workspace replaces), and
//! `runtime/kernels-ptx/kernels/*.cu`. The compiler is a toolkit of this machine when its version fits, else NVIDIA's from PyPI
//! in an environment below `target/`. Each file's PTX is kept there by the hash of what it is made of.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use flate2::{Compression, GzBuilder};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::steps::{Steps, succeed};

/// The version whose kernels candle calls: that of candle itself.
const CANDLE: &str = "0.11.1";
/// Compiled by NVIDIA's compiler for one GPU only, and not to PTX.
const NOT_PTX: [&str; 1] = ["mmvq_gguf"];
/// The oldest GPUs that the kernels run on: their bf16 kernels need it.
const TARGET: &str = "compute_80";
/// The GPU that the assembler checks for.
const CHECKED: &str = "sm_80";
/// Version of the PTX language that the files say they are written in, and the CUDA version whose drivers read it. A compiler
/// always says its own, and older drivers refuse that although nothing new is in the file: that it is so is checked by the
/// assembler of that CUDA version, or, with an installed toolkit, by its own.
const LANGUAGE: (&str, u32) = ("8.4", 12_040);
/// NVIDIA's compiler from PyPI, and the assembler of the oldest CUDA version that is to read what it writes.
const PACKAGES: [&str; 6] = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
    "nvidia-cuda-nvcc-cu12==12.4.131",
];
/// Versions of an installed compiler that do.
const FITTING: std::ops::RangeInclusive<(u32, u32)> = (12, 4)..=(13, 0);
/// As candle's own build has them.
const FLAGS: [&str; 4] = ["--ptx", "--expt-relaxed-constexpr", "-std=c++17", "-O3"];
/// Where the runtime's build looks.
const EMBEDDED: &str = "runtime/kernels-ptx/ptx";
/// The compiler among NVIDIA's packages.
const OF_PYPI: &str = "cu13/bin/nvcc";
/// Our own sources.
const OWN: &str = "runtime/kernels-ptx/kernels";

/// A compiler that works.
struct Compiler {
    nvcc: PathBuf,
    /// What checks [`LANGUAGE`].
    assembler: PathBuf,
    /// `13.0.88`.
    version: String,
    /// `(13, 0)`.
    cuda: (u32, u32),
}

/// A file to compile.
struct Source {
    name: String,
    path: PathBuf,
    /// Hash of it, of what it may include, and of the compiler.
    key: String,
}

/// Makes every file, with so many compilers at once.
pub(crate) fn make(steps: &Steps, jobs: usize) -> Result<()> {
    let folder = steps.target().join("ptx");
    let cache = folder.join("cache");
    fs::create_dir_all(&cache)?;
    let compiler = compiler(steps, &folder)?;
    println!("nvcc {} ({})", compiler.version, compiler.nvcc.display());
    let candle = candle(steps, &folder)?.join("src");
    let mut sources = sources(&candle, "", &compiler)?;
    sources.extend(sources_of_ours(steps, &compiler)?);
    let started = Instant::now();
    let waiting = Mutex::new(sources.iter().collect::<Vec<_>>());
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(source) = waiting.lock().ok().and_then(|mut all| all.pop()) {
                    if let Err(error) = compile(&compiler, source, &cache)
                        && let Ok(mut failed) = failed.lock()
                    {
                        failed.push(format!("{}: {error:#}", source.name));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_default();
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    embed(steps, &compiler, &sources, &cache)?;
    println!(
        "{} files in {:.1} s",
        sources.len(),
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

/// An installed compiler that fits, or NVIDIA's from PyPI.
fn compiler(steps: &Steps, folder: &Path) -> Result<Compiler> {
    let toolkit = std::env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin/nvcc"));
    let installed = [toolkit, Some(PathBuf::from("nvcc"))];
    for nvcc in installed.into_iter().flatten() {
        let assembler = nvcc.with_file_name("ptxas");
        if let Ok(compiler) = ask(steps, nvcc, assembler)
            && FITTING.contains(&compiler.cuda)
        {
            return Ok(compiler);
        }
    }
    let packages = from_pypi(steps, folder)?;
    let assembler = packages.join("cuda_nvcc/bin/ptxas");
    make_executable(&assembler)?;
    ask(steps, packages.join(OF_PYPI), assembler)
}

/// Wheels do not keep who may run what.
fn make_executable(path: &Path) -> Result<()> {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(path, mode).with_context(|| path.display().to_string())
}

fn ask(steps: &Steps, nvcc: PathBuf, assembler: PathBuf) -> Result<Compiler> {
    let output = steps.command(&nvcc).arg("--version").output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = version(&said).with_context(|| format!("{} names no version", nvcc.display()))?;
    let mut parts = version.split('.').map_while(|part| part.parse().ok());
    let cuda = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    Ok(Compiler {
        nvcc,
        assembler,
        version,
        cuda,
    })
}

/// `… release 13.0, V13.0.88` → `13.0.88`.
fn version(said: &str) -> Option<String> {
    let version = said.split_whitespace().find_map(|word| {
        let version = word.strip_prefix('V')?;
        version
            .starts_with(|c: char| c.is_ascii_digit())
            .then_some(version)
    })?;
    Some(version.to_owned())
}

/// Installs the compiler, once. The folder of NVIDIA's packages.
fn from_pypi(steps: &Steps, folder: &Path) -> Result<PathBuf> {
    let venv = folder.join("venv");
    let stamp = venv.join("alephlab-packages.txt");
    let wanted = PACKAGES.join("\n");
    if fs::read_to_string(&stamp).ok().as_ref() != Some(&wanted) {
        println!("installing NVIDIA's compiler (some 300 MB) …");
        let started = Instant::now();
        if venv.exists() {
            fs::remove_dir_all(&venv)?;
        }
        succeed(steps.command("python3").args(["-m", "venv"]).arg(&venv))
            .context("a virtual environment cannot be made; on Debian: apt-get install python3-venv")?;
        let mut pip = steps.command(venv.join("bin/python"));
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ])
        .args(PACKAGES);
        succeed(&mut pip).context("NVIDIA's compiler cannot be installed")?;
        fs::write(&stamp, wanted)?;
        println!("installed in {:.1} s", started.elapsed().as_secs_f64());
    }
    let versions = fs::read_dir(venv.join("lib"))?;
    let packages = versions
        .flatten()
        .map(|version| version.path().join("site-packages/nvidia"))
        .find(|packages| packages.join(OF_PYPI).is_file());
    packages.context("the packages hold no nvcc")
}

/// The sources that candle's crate on crates.io has. The workspace puts its own crate in its place, so it is asked for by a
/// manifest of its own.
fn candle(steps: &Steps, folder: &Path) -> Result<PathBuf> {
    let asking = folder.join("source");
    fs::create_dir_all(asking.join("src"))?;
    fs::write(asking.join("src/lib.rs"), "")?;
    let manifest = asking.join("Cargo.toml");
    fs::write(
        &manifest,
        format!(
            "[package]\nname = \"kernel-sources\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n\
             [dependencies]\ncandle-kernels = \"={CANDLE}\"\n"
        ),
    )?;
    let output = steps
        .command("cargo")
        .args(["metadata", "--format-version=1", "--manifest-path"])
        .arg(&manifest)
        .output()?;
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)))?;
    let mut packages = metadata["packages"].as_array().into_iter().flatten();
    let found = packages
        .find(|package| package["name"] == "candle-kernels")
        .and_then(|package| Path::new(package["manifest_path"].as_str()?).parent());
    Ok(found.context("cargo did not fetch candle-kernels")?.to_owned())
}

fn sources_of_ours(steps: &Steps, compiler: &Compiler) -> Result<Vec<Source>> {
    sources(&steps.root().join(OWN), "own_", compiler)
}

/// The `.cu` files of a folder.
fn sources(folder: &Path, prefix: &str, compiler: &Compiler) -> Result<Vec<Source>> {
    let mut included = Sha256::new();
    let mut files = BTreeMap::new();
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .with_context(|| folder.display().to_string())?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    for path in paths {
        let stem = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        match path.extension().and_then(|end| end.to_str()) {
            Some("cuh") => included.update(fs::read(&path)?),
            Some("cu") if !NOT_PTX.contains(&stem.as_str()) => {
                files.insert(stem, path);
            }
            _ => {}
        }
    }
    let included = included.finalize();
    let hashed = |(stem, path): (String, PathBuf)| -> Result<Source> {
        let mut hash = Sha256::new();
        hash.update(included);
        hash.update(fs::read(&path)?);
        for part in [compiler.version.as_str(), TARGET, LANGUAGE.0]
            .into_iter()
            .chain(FLAGS)
        {
            hash.update(part);
            hash.update([0]);
        }
        let key: String = hash.finalize()[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Ok(Source {
            name: format!("{prefix}{stem}"),
            path,
            key,
        })
    };
    files.into_iter().map(hashed).collect()
}

fn packed(cache: &Path, source: &Source) -> PathBuf {
    cache.join(format!("{}-{}.ptx.gz", source.name, source.key))
}

/// Compiles a file, unless that was done before.
fn compile(compiler: &Compiler, source: &Source, cache: &Path) -> Result<()> {
    let packed = packed(cache, source);
    if packed.is_file() {
        return Ok(());
    }
    let started = Instant::now();
    let ptx = packed.with_extension("");
    let mut command = std::process::Command::new(&compiler.nvcc);
    command
        .args(FLAGS)
        .arg(format!("--gpu-architecture={TARGET}"))
        .arg("-o")
        .arg(&ptx)
        .arg(&source.path);
    let output = command.output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    let text = in_language(&fs::read_to_string(&ptx)?)?;
    ensure!(!text.contains('\0'), "the PTX has a NUL byte");
    fs::write(&ptx, &text)?;
    check(compiler, &ptx)?;
    // The same bytes whenever it is made: no name and no time.
    let mut packer = GzBuilder::new().write(Vec::new(), Compression::best());
    packer.write_all(text.as_bytes())?;
    let bytes = packer.finish()?;
    let part = packed.with_extension("part");
    fs::write(&part, &bytes)?;
    fs::rename(&part, &packed)?;
    fs::remove_file(&ptx)?;
    println!(
        "{:>6.1} s  {}: {} bytes, {} packed",
        started.elapsed().as_secs_f64(),
        source.name,
        text.len(),
        bytes.len()
    );
    Ok(())
}

/// PTX that says it is written in [`LANGUAGE`].
fn in_language(text: &str) -> Result<String> {
    let (before, rest) = text
        .split_once("\n.version ")
        .context("the PTX names no version")?;
    let (_, after) = rest.split_once('\n').context("the PTX ends with its version")?;
    Ok(format!("{before}\n.version {}\n{after}", LANGUAGE.0))
}

/// Has the assembler read a file.
fn check(compiler: &Compiler, ptx: &Path) -> Result<()> {
    let output = std::process::Command::new(&compiler.assembler)
        .args(["--gpu-name", CHECKED, "-O0", "-o", "/dev/null"])
        .arg(ptx)
        .output()
        .with_context(|| compiler.assembler.display().to_string())?;
    ensure!(
        output.status.success(),
        "not PTX {}: {}",
        LANGUAGE.0,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Puts everything where the runtime's build finds it. Files that did not change are left: cargo goes by their times.
fn embed(steps: &Steps, compiler: &Compiler, sources: &[Source], cache: &Path) -> Result<()> {
    let folder = steps.root().join(EMBEDDED);
    let mut wanted = BTreeMap::new();
    for source in sources {
        wanted.insert(
            format!("{}.ptx.gz", source.name),
            fs::read(packed(cache, source))?,
        );
    }
    let facts = format!(
        "compiler={}\ntarget={TARGET}\ndriver={}\ncandle={CANDLE}\n",
        compiler.version, LANGUAGE.1
    );
    wanted.insert("built".to_owned(), facts.into_bytes());
    for entry in fs::read_dir(&folder)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && !wanted.contains_key(&name) {
            fs::remove_file(entry.path())?;
        }
    }
    let bytes: usize = wanted.values().map(Vec::len).sum();
    for (name, content) in wanted {
        let path = folder.join(name);
        if fs::read(&path).ok().as_ref() != Some(&content) {
            fs::write(&path, content)?;
        }
    }
    println!("{bytes} bytes in {}", folder.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_are_those_of_the_candle_in_use() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let lock = fs::read_to_string(root.join("Cargo.lock")).unwrap();
        assert!(
            lock.contains(&format!("name = \"candle-core\"\nversion = \"{CANDLE}\"")),
            "candle-core is not {CANDLE}: change CANDLE in xtask/src/ptx.rs"
        );
    }

    #[test]
    fn a_file_says_the_language_that_was_checked_and_is_the_same_otherwise() {
        let text = "//\n\n.version 9.0\n.target sm_80\n.address_size 64\n";
        assert_eq!(
            in_language(text).unwrap(),
            "//\n\n.version 8.4\n.target sm_80\n.address_size 64\n"
        );
        assert!(in_language("// nothing").is_err());
    }

    #[test]
    fn a_compiler_says_its_version_in_its_own_way() {
        let said =
            "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 13.0, V13.0.88\nBuild x";
        assert_eq!(version(said).as_deref(), Some("13.0.88"));
        assert_eq!(version("command not found"), None);
    }
}

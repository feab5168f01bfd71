//! Each case is a process of its own, because a library is looked for once: this test program again, with a folder of fake
//! libraries.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use alephlab::candle_core::cuda_backend::kernels;
use alephlab::candle_core::{DType, Device, Tensor};
use alephlab::device::{cuda_device, with_memory};
use alephlab::train::Examples;
use alephlab::{Loader, device, gpu, synchronize};

/// What the process is to do.
const TASK: &str = "ALEPHLAB_TEST_TASK";
/// Before what it says.
const SAYS: &str = "SAYS ";
/// cuBLASLt is looked for by cuBLAS's side, and may be missing.
const FILES: [&str; 3] = ["libcuda.so.1", "libcublas.so.13", "libcurand.so.10"];

/// The folder of fake libraries.
static FAKES: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/device/fake_cuda.c");
    for file in FILES {
        let made = Command::new("cc")
            .args(["-shared", "-fPIC", "-w", "-o"])
            .arg(folder.path().join(file))
            .arg(&source)
            .status()
            .unwrap();
        assert!(made.success());
    }
    folder
});

fn fakes() -> PathBuf {
    FAKES.path().to_owned()
}

/// Runs a task in a process of its own; what it says.
fn run(task: &str, fake: Option<&str>, folder: &Path) -> Vec<String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "fake::a_process_of_its_own", "--nocapture"])
        .env(TASK, task)
        .env("ALEPHLAB_CUDA_LIBRARIES", folder)
        .env("RUST_BACKTRACE", "0")
        .env_remove("ALEPHLAB_DEVICE");
    for variable in [
        "CUDA_HOME",
        "CUDA_PATH",
        "CUDA_ROOT",
        "VIRTUAL_ENV",
        "CONDA_PREFIX",
    ] {
        command.env_remove(variable);
    }
    if let Some(fake) = fake {
        command.env("FAKE_CUDA", fake);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{task} with {fake:?}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text.lines()
        .filter_map(|line| line.strip_prefix(SAYS))
        .map(str::to_owned)
        .collect()
}

fn with_fake(task: &str, fake: &str) -> String {
    run(task, Some(fake), &fakes()).join("\n")
}

/// Code and title of what `%gpu` says.
fn report(fake: &str) -> (String, String) {
    let said = with_fake("report", fake);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let code = said["code"].as_str().unwrap_or("usable").to_owned();
    (code, said["title"].as_str().unwrap_or_default().to_owned())
}

fn say(text: impl std::fmt::Display) {
    // The harness has not ended its own line yet.
    println!("\n{SAYS}{}", text.to_string().replace('\n', " | "));
}

/// The other tests run it as a process of its own; by itself it asks what this machine has, which never fails.
#[test]
fn a_process_of_its_own() {
    let zeros = |device: &Device| Tensor::zeros(4, DType::F32, device);
    match std::env::var(TASK).as_deref().unwrap_or("report") {
        "report" => say(gpu().to_json()),
        "auto" => say(format!("{:?}", device().unwrap().location())),
        "candle" => {
            say(Device::new_cuda(0).map_or_else(|error| error.to_string(), |_| "a device".to_owned()))
        }
        "copy" => {
            let device = cuda_device(0).unwrap();
            let there = Tensor::new(&[1_f32, 2.0, 3.0], &device).unwrap();
            synchronize().unwrap();
            say(format!("{:?}", there.to_vec1::<f32>().unwrap()));
            assert!(there.device().same_device(&cuda_device(0).unwrap()));
        }
        "batches" => {
            let device = Device::new_cuda(0).unwrap();
            let numbers: Vec<f32> = (0..5000).map(|number| number as f32).collect();
            let inputs = Tensor::from_vec(numbers, (1000, 5), &Device::Cpu).unwrap();
            let labels = Tensor::arange(0_u32, 1000, &Device::Cpu).unwrap();
            let loader = Loader::new(Examples::new(inputs, labels).unwrap());
            let (mut seen, mut is_right) = (0, true);
            for _ in 0..3 {
                let batches = loader.clone().to_device(&device).batches(30, None).unwrap();
                // Kept, as a GPU may be behind: their memory must not be written meanwhile.
                for batch in batches.collect::<Vec<_>>() {
                    let batch = batch.unwrap();
                    assert!(batch.inputs.device().same_device(&device));
                    let first: Vec<f32> = batch.inputs.flatten_all().unwrap().to_vec1().unwrap();
                    let labels: Vec<u32> = batch.labels.to_vec1().unwrap();
                    is_right &= first
                        .iter()
                        .zip(seen % 1000 * 5..)
                        .all(|(one, other)| *one == other as f32);
                    is_right &= labels
                        .iter()
                        .zip(seen % 1000..)
                        .all(|(one, other)| *one as usize == other);
                    seen += labels.len();
                }
            }
            say(format!("{seen} {is_right}"));
        }
        "number" => say(cuda_device(7).unwrap_err()),
        "memory" => {
            let device = cuda_device(0).unwrap();
            match with_memory(|| zeros(&device)) {
                Ok(tensor) => say(format!("{:?}", tensor.dims())),
                Err(error) => say(format!("{} {error}", error.code())),
            }
        }
        "lose" => {
            let device = cuda_device(0).unwrap();
            Tensor::ones(4, DType::F32, &device).unwrap();
            say(synchronize().unwrap_err());
            let error = alephlab::device().unwrap_err();
            say(format!("{} {}", error.code(), error.hint().unwrap_or_default()));
        }
        "twice" => {
            let first = cuda_device(0).unwrap();
            Tensor::ones(4, DType::F32, &first).unwrap();
            say(synchronize().is_err());
            // Nothing new has failed, and the CPU is not concerned.
            say(synchronize().is_ok());
        }
        "both" => {
            for ordinal in [0, 1] {
                let device = cuda_device(ordinal).unwrap();
                Tensor::ones(4, DType::F32, &device).unwrap();
            }
            say(synchronize().unwrap_err());
            say(synchronize().is_ok());
            say(cuda_device(1).unwrap_err());
        }
        "busy" => {
            let device = cuda_device(0).unwrap();
            for _ in 0..3 {
                Tensor::ones(4, DType::F32, &device).unwrap();
            }
            synchronize().unwrap();
            say("waited");
        }
        "interrupt" => {
            let device = cuda_device(0).unwrap();
            Tensor::ones(4, DType::F32, &device).unwrap();
            alephlab_cell::interrupt::set(true);
            let stopped = std::panic::catch_unwind(synchronize);
            say(format!("stopped {}", stopped.is_err()));
        }
        other => panic!("no task `{other}`"),
    }
}

#[test]
fn without_a_driver_the_cpu_is_taken_and_the_reason_is_known() {
    if alephlab_cuda_stubs::DRIVER.found().is_ok() {
        eprintln!("skipped: this machine has a driver");
        return;
    }
    let nowhere = tempfile::tempdir().unwrap();
    let said = run("report", None, nowhere.path()).join("");
    assert!(
        said.contains("gpu_no_driver") && said.contains("libcuda.so.1"),
        "{said}"
    );
    assert!(run("auto", None, nowhere.path()).join("").contains("Cpu"));
    let said = run("candle", None, nowhere.path()).join("");
    assert!(
        said.contains("CUDA_ERROR_NO_DEVICE") && said.contains("there is no NVIDIA driver"),
        "{said}"
    );
}

#[test]
fn a_driver_that_finds_nothing_or_does_not_start_is_told_in_its_own_words() {
    let (code, title) = report("no_device");
    assert_eq!(code, "gpu_no_device");
    assert!(title.contains("for CUDA 13.0"), "{title}");
    assert_eq!(report("zero").0, "gpu_no_device");
    let (code, title) = report("broken");
    assert_eq!(code, "gpu_driver_fails");
    assert!(title.contains("as the fake says"), "{title}");
    assert!(with_fake("auto", "no_device").contains("Cpu"));
}

#[test]
fn calls_go_to_the_library_with_their_arguments() {
    let said = with_fake("number", "works");
    assert!(said.contains("there is no GPU 7: this machine has 1"), "{said}");
}

#[test]
fn batches_are_fetched_from_page_locked_memory_where_there_is_some() {
    assert_eq!(with_fake("batches", "fetches"), "3000 true");
    assert_eq!(with_fake("batches", "unlocked"), "3000 true");
}

/// The rest needs kernels in the build, which `cargo xtask ptx` makes.
fn has_kernels() -> bool {
    if kernels::BUILT.is_none() {
        eprintln!("the rest is skipped: this build holds no GPU kernels");
        let (code, title) = report("works");
        assert_eq!(code, "gpu_no_kernels", "{title}");
        assert!(with_fake("auto", "works").contains("Cpu"));
    }
    kernels::BUILT.is_some()
}

#[test]
fn what_is_too_old_or_too_full_for_our_kernels_is_told() {
    if !has_kernels() {
        return;
    }
    for (fake, wanted, part) in [
        ("old", "gpu_driver_too_old", "for CUDA 12.2"),
        ("ptx", "gpu_kernels_refused", "refuses this build's GPU kernels"),
        ("small", "gpu_too_old", "capability 7.5"),
        ("full", "gpu_no_memory", "no memory left"),
    ] {
        let (code, title) = report(fake);
        assert_eq!(code, wanted, "{title}");
        assert!(title.contains(part), "{title}");
    }
}

#[test]
fn without_cublas_the_reason_is_that() {
    if !has_kernels() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fakes().join(FILES[0]), folder.path().join(FILES[0])).unwrap();
    let said = run("report", Some("works"), folder.path()).join("");
    assert!(
        said.contains("gpu_no_library") && said.contains("libcublas.so.13")
            || said.contains("\"usable\":true"),
        "{said}"
    );
}

#[test]
fn a_gpu_that_works_is_opened_once_and_its_memory_is_kept() {
    if !has_kernels() {
        return;
    }
    let said = with_fake("report", "works");
    assert!(said.contains("Fake GPU (GPU 0 of 1)"), "{said}");
    assert!(
        said.contains("tensors 4.0 KiB"),
        "freed memory is to be kept: {said}"
    );
    assert!(with_fake("auto", "works").contains("gpu_id: 0"));
    assert_eq!(with_fake("copy", "works"), "[1.0, 2.0, 3.0]");
}

#[test]
fn without_memory_what_is_kept_is_given_back_and_it_is_tried_again() {
    if !has_kernels() {
        return;
    }
    assert_eq!(with_fake("memory", "tight"), "[4]");
    let said = with_fake("memory", "never");
    assert!(
        said.starts_with("gpu_memory") && said.contains("1.0 GiB of 8.0 GiB are free"),
        "{said}"
    );
}

#[test]
fn a_gpu_that_failed_is_lost_until_the_kernel_is_restarted() {
    if !has_kernels() {
        return;
    }
    let said = with_fake("lose", "lost");
    assert!(
        said.contains("GPU 0 is lost") && said.contains("CUDA_ERROR_ILLEGAL_ADDRESS"),
        "{said}"
    );
    assert!(said.contains("gpu_lost restart the kernel"), "{said}");
}

#[test]
fn a_lost_gpu_is_told_once_and_another_that_failed_with_it_too() {
    if !has_kernels() {
        return;
    }
    assert_eq!(with_fake("twice", "lost"), "true\ntrue");
    let said = with_fake("both", "both");
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].contains("GPU 0 is lost"), "{said}");
    assert_eq!(lines[1], "true", "{said}");
    assert!(lines[2].contains("GPU 1 is lost"), "{said}");
}

#[test]
fn what_another_shell_begins_later_is_not_waited_for() {
    if has_kernels() {
        assert_eq!(with_fake("busy", "busy"), "waited");
    }
}

#[test]
fn an_interrupt_ends_the_wait_for_a_gpu() {
    if has_kernels() {
        assert_eq!(with_fake("interrupt", "slow"), "stopped true");
    }
}

//! All tests of this program again, in a process whose GPU is emulated.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::EMULATED;

/// As the runtime looks for them.
const FILES: [&str; 3] = ["libcuda.so.1", "libcublas.so.13", "libcurand.so.10"];

fn made(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A driver of the tests, with our kernels compiled for the processor.
fn driver(folder: &Path) {
    let runtime = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let (kernels, object) = (runtime.join("kernels-ptx/emulator"), folder.join("fake.o"));
    made(
        Command::new("cc")
            .args(["-c", "-O1", "-fPIC", "-w", "-o"])
            .arg(&object)
            .arg(runtime.join("tests/device/fake_cuda.c")),
    );
    // Multiplications and additions are made one by one: a GPU's compiler makes one of two where it can, and results are within
    // the tolerance either way.
    made(
        Command::new("c++")
            .args([
                "-std=c++17",
                "-O2",
                "-fPIC",
                "-shared",
                "-Wall",
                "-Wextra",
                "-Werror",
            ])
            .args(["-Wno-unknown-pragmas", "-U_FORTIFY_SOURCE", "-include"])
            .arg(kernels.join("emulator.h"))
            .arg("-I")
            .arg(&kernels)
            .arg("-o")
            .arg(folder.join(FILES[0]))
            .arg(kernels.join("emulator.cpp"))
            .arg(&object),
    );
    for file in &FILES[1..] {
        std::fs::copy(folder.join(FILES[0]), folder.join(file)).unwrap();
    }
}

#[test]
fn every_test_passes_on_a_gpu_whose_kernels_run_on_the_processor() {
    if std::env::var_os(EMULATED).is_some() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    driver(folder.path());
    let output = Command::new(std::env::current_exe().unwrap())
        .env(EMULATED, "1")
        .env("ALEPHLAB_CUDA_LIBRARIES", folder.path())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success(), "{}\n{text}", output.status);
    assert!(text.contains("test rows::softmax"), "the tests ran: {text}");
}

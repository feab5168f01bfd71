//! What cells are told of a GPU: where there is none, and where one fails that the tests make.

use std::path::{Path, PathBuf};

use crate::client::{Message, only};
use crate::{Engine, start_on, template};

/// The driver of the runtime's tests, and what it is loaded as.
const FAKE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../runtime/tests/device/fake_cuda.c");
const FILES: [&str; 3] = ["libcuda.so.1", "libcublas.so.13", "libcurand.so.10"];

fn shown(messages: &[Message]) -> String {
    let shown = only(messages, "display_data");
    shown.content["data"]["text/plain"].as_str().unwrap().to_owned()
}

fn fake_libraries(folder: &Path) -> PathBuf {
    for file in FILES {
        let made = std::process::Command::new("cc")
            .args(["-shared", "-fPIC", "-w", "-o"])
            .arg(folder.join(file))
            .arg(FAKE)
            .status();
        assert!(made.unwrap().success());
    }
    folder.to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_magic_says_why_there_is_no_gpu_and_variables_say_what_their_tensors_take() {
    let Some(template) = template() else { return };
    let folder = tempfile::tempdir().unwrap();
    let fakes = fake_libraries(folder.path());
    let env = [
        ("ALEPHLAB_CUDA_LIBRARIES", fakes.to_str().unwrap()),
        ("FAKE_CUDA", "no_device"),
    ];
    let mut session = start_on(&template, Engine::Zygote, &env).await;
    let said = shown(&session.ok("let a = 1;\n%gpu").await);
    assert!(said.contains("no GPU that this process may use"), "{said}");
    assert_eq!(session.value("device()?.is_cpu()").await, "true");
    session
        .ok("let t = Tensor::zeros((256, 1024), DType::F32, &device()?)?;")
        .await;
    let said = shown(&session.ok(":vars").await);
    assert!(said.contains("t: 1.0 MiB on cpu, F32 [256, 1024]"), "{said}");
    session.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_on_a_gpu_is_the_error_of_its_cell_and_variables_on_the_cpu_live() {
    let Some(template) = template() else { return };
    if !template.join("source/runtime/kernels-ptx/ptx/built").is_file() {
        eprintln!("skipped: the template holds no GPU kernels");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let fakes = fake_libraries(folder.path());
    let env = [
        ("ALEPHLAB_CUDA_LIBRARIES", fakes.to_str().unwrap()),
        ("FAKE_CUDA", "lost"),
    ];
    let mut session = start_on(&template, Engine::Zygote, &env).await;
    session
        .ok("let kept = Tensor::new(&[1f32, 2.0], &Device::Cpu)?;")
        .await;
    // Copies: the fake fails after the first kernel only.
    let copied = "let there = Tensor::new(&[3f32], &device()?)?; there.to_vec1::<f32>()?";
    assert_eq!(session.value(copied).await, "[3.0]");
    let error = session
        .error("let ones = Tensor::ones(4, DType::F32, &device()?)?;")
        .await;
    let value = error["evalue"].as_str().unwrap();
    assert!(
        value.contains("GPU 0 is lost to this kernel")
            && error["traceback"].to_string().contains("restart the kernel"),
        "{value}"
    );
    let error = session.error("device()?").await;
    assert!(error["evalue"].as_str().unwrap().contains("lost"), "{error}");
    assert_eq!(session.value("kept.to_vec1::<f32>()?").await, "[1.0, 2.0]");
    // What a later cell makes on the CPU is kept, too.
    session.ok("let later = (&kept + 1.0)?;").await;
    assert_eq!(session.value("later.to_vec1::<f32>()?").await, "[2.0, 3.0]");
    session.end().await;
}

//! What `%gpu` and `alephlab doctor --gpu` say: the GPU of this kernel, or exactly why there is none.

use std::fmt::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::choice::Choice;
use super::memory::{Held, amount, held};
use super::{Absence, DEVICE_ENV, cuda, cuda_version};
use crate::display::{Bundle, Rich, display};
use crate::live::{facts_html, facts_text};

/// What is known of this kernel's GPU. Shown by `%gpu`.
#[derive(Debug, Clone)]
pub struct Gpu {
    pub(super) state: State,
    /// The CUDA version that the driver supports, such as 13000, where there is a driver.
    pub(super) driver: Option<i32>,
}

#[derive(Debug, Clone)]
#[cfg_attr(
    not(all(target_os = "linux", target_arch = "x86_64")),
    expect(dead_code, reason = "there are no GPUs")
)]
pub(super) enum State {
    Usable(Facts),
    Absent(Absence),
    /// `ALEPHLAB_DEVICE` says `cpu`: nothing was asked.
    NotWanted,
    /// `ALEPHLAB_DEVICE` says something else.
    Misnamed(String),
}

/// A GPU that can be opened, as far as one can tell from outside.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) name: String,
    /// The CUDA version that the driver supports, such as 13000.
    #[cfg_attr(
        not(all(target_os = "linux", target_arch = "x86_64")),
        expect(dead_code, reason = "there are no drivers")
    )]
    pub(super) driver: i32,
    pub(super) count: usize,
    pub(super) capability: (i32, i32),
    /// Memory in bytes.
    pub(super) total: u64,
}

/// Of a GPU that is open. Memory in bytes.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) ordinal: usize,
    pub(super) seen: Seen,
    pub(super) free: Option<u64>,
    /// What tensors have.
    pub(super) held: u64,
    /// What is kept for the next ones.
    pub(super) kept: u64,
    pub(super) tf32: bool,
    /// Version of the compiler that made the kernels.
    pub(super) compiler: Option<&'static str>,
    pub(super) cublas: Option<&'static Path>,
}

/// Looks at the GPU that this kernel uses, or would use. Opens it, unless `ALEPHLAB_DEVICE` says `cpu`.
pub fn gpu() -> Gpu {
    match Choice::of_environment() {
        Ok(Choice::Auto) => cuda::look(0),
        Ok(Choice::Cuda(ordinal)) => cuda::look(ordinal),
        Ok(Choice::Cpu) => Gpu {
            state: State::NotWanted,
            driver: None,
        },
        Err(error) => Gpu {
            state: State::Misnamed(error.to_string()),
            driver: None,
        },
    }
}

/// Shows [`gpu`]. What `%gpu` stands for.
pub fn show_gpu() {
    display(&gpu());
}

/// Shows what each variable's tensors take. What `:vars` adds where there are some.
pub fn show_held() {
    let held = held();
    if !held.is_empty() {
        display(&table(&held));
    }
}

fn table(held: &[Held]) -> Bundle {
    let (mut text, mut rows) = (String::new(), String::new());
    for one in held {
        let size = amount(one.bytes);
        let _ = writeln!(text, "{}: {size} on {}, {}", one.name, one.device, one.what);
        let _ = write!(
            rows,
            "<tr><td><code>{}</code></td><td style=\"text-align:right\">{size}</td><td>{}</td><td>{}</td></tr>",
            one.name, one.device, one.what
        );
    }
    let total = amount(held.iter().map(|one| one.bytes).sum());
    let _ = write!(text, "{total} in all");
    Bundle::new().text(text).html(format!(
        "<table><thead><tr><th>variable</th><th>memory</th><th>device</th><th>holds</th></tr></thead>\
         <tbody>{rows}</tbody><tfoot><tr><td></td><td style=\"text-align:right\">{total}</td></tr></tfoot></table>"
    ))
}

impl Gpu {
    pub(super) fn absent(absence: Absence) -> Self {
        Self {
            state: State::Absent(absence),
            driver: None,
        }
    }

    /// Whether this kernel can calculate on it.
    pub fn is_usable(&self) -> bool {
        matches!(self.state, State::Usable(_))
    }

    fn title(&self) -> String {
        match &self.state {
            State::Usable(facts) => {
                format!(
                    "{} (GPU {} of {})",
                    facts.seen.name, facts.ordinal, facts.seen.count
                )
            }
            State::Absent(absence) => absence.to_string(),
            State::NotWanted => {
                format!("{DEVICE_ENV} is cpu: this kernel calculates on the CPU and asks no GPU")
            }
            State::Misnamed(message) => message.clone(),
        }
    }

    fn hint(&self) -> Option<String> {
        match &self.state {
            State::Absent(absence) => Some(absence.hint()),
            State::Usable(_) | State::NotWanted | State::Misnamed(_) => None,
        }
    }

    /// Name and value of what there is to say beside the title.
    fn facts(&self) -> Vec<(&'static str, String)> {
        let mut all = Vec::new();
        if let Some(driver) = self.driver {
            all.push(("driver", format!("for CUDA {}", cuda_version(driver))));
        }
        if let State::Usable(facts) = &self.state {
            all.push((
                "compute capability",
                format!("{}.{}", facts.seen.capability.0, facts.seen.capability.1),
            ));
            let free = facts
                .free
                .map_or_else(String::new, |free| format!(", {} free", amount(free)));
            all.push(("memory", format!("{}{free}", amount(facts.seen.total))));
            all.push((
                "of this kernel",
                format!(
                    "tensors {}, kept for the next {}",
                    amount(facts.held),
                    amount(facts.kept)
                ),
            ));
            let tf32 = if facts.tf32 {
                "TF32 (Precision::High)"
            } else {
                "exact (Precision::Highest)"
            };
            all.push(("products of f32", tf32.to_owned()));
            all.extend(
                facts
                    .compiler
                    .map(|compiler| ("kernels", format!("by nvcc {compiler}"))),
            );
            all.extend(facts.cublas.map(|path| ("cuBLAS", path.display().to_string())));
        }
        all.extend(self.hint().map(|hint| ("what to do", hint)));
        all
    }

    /// One JSON object, for programs: `usable`, `title`, `facts`, and `code` and `hint` where there is no GPU.
    pub fn to_json(&self) -> Value {
        let facts: serde_json::Map<String, Value> = self
            .facts()
            .into_iter()
            .filter(|(name, _)| *name != "what to do")
            .map(|(name, value)| (name.to_owned(), Value::String(value)))
            .collect();
        let code = match &self.state {
            State::Usable(_) => None,
            State::Absent(absence) => Some(absence.code()),
            State::NotWanted => Some("gpu_not_wanted"),
            State::Misnamed(_) => Some("name"),
        };
        json!({
            "usable": self.is_usable(),
            "title": self.title(),
            "code": code,
            "hint": self.hint(),
            "facts": facts,
        })
    }
}

impl Rich for Gpu {
    fn bundle(&self) -> Bundle {
        let (title, facts) = (self.title(), self.facts());
        Bundle::new()
            .text(facts_text(&title, &facts))
            .html(facts_html(&title, &facts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_gpu_is_told_with_its_reason_and_what_to_do() {
        let gpu = Gpu::absent(Absence::NoDriver {
            reason: "no such file".to_owned(),
        });
        let told = gpu.to_json();
        assert_eq!(
            (&told["usable"], &told["code"]),
            (&json!(false), &json!("gpu_no_driver"))
        );
        let bundle = gpu.bundle();
        let text = bundle.as_text().unwrap_or_default();
        assert!(
            text.contains("no such file") && text.contains("install NVIDIA's driver"),
            "{text}"
        );
    }

    #[test]
    fn a_gpu_is_told_with_what_it_has() {
        let gpu = Gpu {
            state: State::Usable(Facts {
                ordinal: 0,
                seen: Seen {
                    name: "NVIDIA H200".to_owned(),
                    driver: 13000,
                    count: 2,
                    capability: (9, 0),
                    total: 150_323_855_360,
                },
                free: Some(1 << 30),
                held: 0,
                kept: 1024,
                tf32: false,
                compiler: Some("13.0.88"),
                cublas: None,
            }),
            driver: Some(13000),
        };
        let bundle = gpu.bundle();
        let text = bundle.as_text().unwrap_or_default();
        for part in [
            "GPU 0 of 2",
            "CUDA 13.0",
            "9.0",
            "140.0 GiB, 1.0 GiB free",
            "exact",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

//! Memory of tensors: which variable holds how much, and once more when a GPU had none left.

use std::collections::BTreeMap;

use candle_core::{DeviceLocation, Tensor, Var};
use candle_nn::VarMap;

use super::cuda;
use crate::nn::Lora;
use crate::train::Examples;
use crate::{Error, Result};

/// How many variables an error names.
const NAMED: usize = 5;

/// What a variable holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The variable.
    pub name: &'static str,
    /// Type and shape, or how many tensors.
    pub what: String,
    /// `cpu` or `cuda:0`; of several tensors that of the first.
    pub device: String,
    /// Bytes. Two variables that share their values each count them.
    pub bytes: u64,
}

/// Variables that hold tensors, the largest first. Not those that the running cell uses, which are its own until it ends.
/// Networks are not looked into; what they learn is counted with their `VarMap`.
pub fn held() -> Vec<Held> {
    let mut all = Vec::new();
    alephlab_cell::look(|name, tensor: &Tensor| all.push(of_tensor(name, tensor)));
    alephlab_cell::look(|name, var: &Var| all.push(of_tensor(name, var.as_tensor())));
    alephlab_cell::look(|name, tensors: &Vec<Tensor>| all.extend(of_several(name, tensors.iter())));
    alephlab_cell::look(|name, vars: &Vec<Var>| {
        all.extend(of_several(name, vars.iter().map(|var| var.as_tensor())));
    });
    alephlab_cell::look(|name, vars: &VarMap| {
        let vars = vars.all_vars();
        all.extend(of_several(name, vars.iter().map(|var| var.as_tensor())));
    });
    alephlab_cell::look(|name, lora: &Lora| {
        let vars = lora.var_map().all_vars();
        all.extend(of_several(name, vars.iter().map(|var| var.as_tensor())));
    });
    alephlab_cell::look(|name, examples: &Examples| {
        all.extend(of_several(name, [&examples.inputs, &examples.labels].into_iter()));
    });
    all.sort_by(|one, other| other.bytes.cmp(&one.bytes).then(one.name.cmp(other.name)));
    all
}

fn of_tensor(name: &'static str, tensor: &Tensor) -> Held {
    Held {
        name,
        what: format!("{:?} {:?}", tensor.dtype(), tensor.dims()),
        device: place(tensor),
        bytes: bytes(tensor),
    }
}

fn of_several<'a>(name: &'static str, tensors: impl Iterator<Item = &'a Tensor>) -> Option<Held> {
    // Views of one tensor share its values.
    let mut storages = BTreeMap::new();
    let mut first = None;
    for tensor in tensors {
        first.get_or_insert_with(|| place(tensor));
        let counted = storages.entry(storage(tensor)).or_insert(0);
        *counted = bytes(tensor).max(*counted);
    }
    Some(Held {
        name,
        what: format!("{} tensors", storages.len()),
        device: first?,
        bytes: storages.values().sum(),
    })
}

/// Where a tensor's values are in this process: the same for two that share them.
fn storage(tensor: &Tensor) -> usize {
    let (guard, _) = tensor.storage_and_layout();
    std::ptr::from_ref(&*guard).addr()
}

fn bytes(tensor: &Tensor) -> u64 {
    (tensor.elem_count() as u64).saturating_mul(tensor.dtype().size_in_bytes() as u64)
}

fn place(tensor: &Tensor) -> String {
    match tensor.device().location() {
        DeviceLocation::Cpu => "cpu".to_owned(),
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// Bytes, as people read them.
pub(super) fn amount(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let bytes = bytes as f64;
    for (unit, size) in [("GiB", 1_073_741_824.0), ("MiB", 1_048_576.0), ("KiB", 1024.0)] {
        if bytes >= size {
            return format!("{:.1} {unit}", bytes / size);
        }
    }
    format!("{bytes} bytes")
}

/// Does a calculation; when a GPU had no memory left for it, gives back what is kept there unused, and does it once more.
///
/// # Errors
/// [`Error::GpuMemory`], which names the largest variables, when there is still not enough; else the calculation's own.
pub fn with_memory<T>(mut work: impl FnMut() -> candle_core::Result<T>) -> Result<T> {
    let first = match work() {
        Err(error) if cuda::is_out_of_memory(&error) => error,
        done => return Ok(done?),
    };
    cuda::synchronize()?;
    if cuda::trim().is_err() {
        return Err(first.into());
    }
    match work() {
        Err(error) if cuda::is_out_of_memory(&error) => Err(Error::GpuMemory { state: state() }),
        done => Ok(done?),
    }
}

/// Free memory, and who has the rest, in a sentence.
pub(super) fn state() -> String {
    let free = cuda::free_memory().map_or_else(
        || "how much is free cannot be asked".to_owned(),
        |(free, total)| format!("{} of {} are free", amount(free), amount(total)),
    );
    let held = held();
    let on_gpus: Vec<String> = held
        .iter()
        .filter(|one| one.device != "cpu")
        .take(NAMED)
        .map(|one| format!("`{}` {} ({})", one.name, amount(one.bytes), one.what))
        .collect();
    if on_gpus.is_empty() {
        format!("{free}; no tensor of earlier cells is there, and networks are not looked into")
    } else {
        format!("{free}; the largest variables there: {}", on_gpus.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn a_variable_counts_what_its_tensors_share_once() {
        let whole = Tensor::zeros((4, 8), DType::F32, &Device::Cpu).unwrap();
        let part = whole.narrow(0, 0, 2).unwrap();
        let held = of_several("both", [&whole, &part].into_iter()).unwrap();
        assert_eq!((held.bytes, held.what.as_str()), (128, "1 tensors"));
        assert_eq!(of_tensor("one", &part).bytes, 64);
        assert_eq!(of_tensor("one", &part).device, "cpu");
        assert_eq!(of_several("none", std::iter::empty()), None);
    }

    #[test]
    fn variables_of_cells_are_found_by_their_types() {
        alephlab_cell::put::<_, 0>("held_big", Tensor::zeros(1024, DType::F64, &Device::Cpu).unwrap());
        alephlab_cell::put::<_, 0>(
            "held_small",
            vec![Var::zeros(4, DType::F32, &Device::Cpu).unwrap()],
        );
        let labels = Tensor::zeros(2, DType::U32, &Device::Cpu).unwrap();
        let inputs = Tensor::zeros((2, 100), DType::F32, &Device::Cpu).unwrap();
        alephlab_cell::put::<_, 0>("held_examples", Examples::new(inputs, labels).unwrap());
        alephlab_cell::put::<_, 0>("held_not", 7);
        let held = held();
        let names: Vec<_> = held
            .iter()
            .map(|one| one.name)
            .filter(|name| name.starts_with("held_"))
            .collect();
        assert_eq!(names, ["held_big", "held_examples", "held_small"]);
        assert_eq!(held[0].bytes, 8192);
    }

    #[test]
    fn what_has_nothing_to_do_with_memory_is_done_once() {
        let mut done = 0;
        let failed = with_memory(|| {
            done += 1;
            Err::<(), _>(candle_core::Error::Msg("no".into()))
        });
        assert_eq!((done, failed.unwrap_err().code()), (1, "tensor"));
    }

    #[test]
    fn amounts_have_the_unit_that_people_would_choose() {
        assert_eq!(amount(7), "7 bytes");
        assert_eq!(amount(1536), "1.5 KiB");
        assert_eq!(amount(150_323_855_360), "140.0 GiB");
    }
}

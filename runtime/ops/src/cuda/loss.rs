//! Cross-entropy of rows.

use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, DType, Layout, Result, Shape, Tensor};

use super::launch::{Launcher, ROWS, Threads, Word};
use super::{on_gpu, tensor};
use crate::loss::Costs;

/// Whether a label is ignored, and which.
fn ignored(costs: &Costs) -> [Word; 2] {
    let label = costs.ignored.map_or(0, u64::from);
    [costs.ignored.is_some().into(), label.into()]
}

/// The mean of what labels cost, and for the gradient the logarithms of the rows' sums and the sum of weights.
pub(crate) fn mean_cost(
    costs: &Costs,
    x: &CudaStorage,
    layout: &Layout,
) -> Result<(CudaStorage, [Tensor; 2])> {
    let dtype = x.dtype();
    let rows = costs.labels.elem_count();
    let width = layout.shape().elem_count() / rows;
    let launcher = Launcher::new(&x.device);
    let (labels, labels_layout) = costs.labels.storage_and_layout();
    let weights = costs.weights.as_ref().map(Tensor::storage_and_layout);
    let mut kept = launcher.fresh(2 * rows, DType::F32)?;
    let mut cost = launcher.fresh(rows, DType::F32)?;
    let mut counted = launcher.fresh(rows, DType::F32)?;
    let (mut mean, mut total) = (launcher.fresh(1, dtype)?, launcher.fresh(1, DType::F32)?);
    {
        let (x, labels) = (
            launcher.read(x, layout)?,
            launcher.read(on_gpu(&labels)?, labels_layout)?,
        );
        let weights = match &weights {
            Some((storage, layout)) => Some(launcher.read(on_gpu(storage)?, layout)?),
            None => None,
        };
        let (kept, cost, counted) = (
            launcher.write(&mut kept, None)?,
            launcher.write(&mut cost, None)?,
            launcher.write(&mut counted, None)?,
        );
        let (mean, total) = (
            launcher.write(&mut mean, None)?,
            launcher.write(&mut total, None)?,
        );
        let [ignores, ignored] = ignored(costs);
        let words = [
            (&x).into(),
            (&labels).into(),
            weights.as_ref().map_or(Word::NOTHING, Word::from),
            (&kept).into(),
            (&cost).into(),
            (&counted).into(),
            rows.into(),
            width.into(),
            costs.smoothing.into(),
            ignores,
            ignored,
        ];
        launcher.run(&ROWS, ("costs", dtype), Threads::rows(rows, width), &words)?;
        let words = [
            (&cost).into(),
            (&counted).into(),
            rows.into(),
            (&mean).into(),
            (&total).into(),
        ];
        launcher.run(&ROWS, ("mean_cost", dtype), Threads::one_block(), &words)?;
    }
    Ok((mean, [tensor(kept, (rows, 2)), tensor(total, ())]))
}

/// The gradient of the logits, from that of the mean. All in row-major order.
pub(crate) fn cost_gradient(
    costs: &Costs,
    [x, grad]: [&Tensor; 2],
    [kept, total]: &[Tensor; 2],
) -> Result<Tensor> {
    let dtype = x.dtype();
    let rows = costs.labels.elem_count();
    let width = x.elem_count() / rows;
    let (x_storage, x_layout) = x.storage_and_layout();
    let (grad_storage, grad_layout) = grad.storage_and_layout();
    let (labels, labels_layout) = costs.labels.storage_and_layout();
    let ((kept, kept_layout), (total, total_layout)) =
        (kept.storage_and_layout(), total.storage_and_layout());
    let weights = costs.weights.as_ref().map(Tensor::storage_and_layout);
    let launcher = Launcher::new(&on_gpu(&x_storage)?.device);
    let mut made = launcher.fresh(rows * width, dtype)?;
    {
        let (from, grad) = (
            launcher.read(on_gpu(&x_storage)?, x_layout)?,
            launcher.read(on_gpu(&grad_storage)?, grad_layout)?,
        );
        let labels = launcher.read(on_gpu(&labels)?, labels_layout)?;
        let (kept, total) = (
            launcher.read(on_gpu(&kept)?, kept_layout)?,
            launcher.read(on_gpu(&total)?, total_layout)?,
        );
        let weights = match &weights {
            Some((storage, layout)) => Some(launcher.read(on_gpu(storage)?, layout)?),
            None => None,
        };
        let to = launcher.write(&mut made, None)?;
        let [ignores, ignored] = ignored(costs);
        let words = [
            (&from).into(),
            (&labels).into(),
            weights.as_ref().map_or(Word::NOTHING, Word::from),
            (&kept).into(),
            (&total).into(),
            (&grad).into(),
            (&to).into(),
            rows.into(),
            width.into(),
            costs.smoothing.into(),
            costs.all_weights.into(),
            ignores,
            ignored,
        ];
        launcher.run(
            &ROWS,
            ("cost_gradient", dtype),
            Threads::rows(rows, width),
            &words,
        )?;
    }
    Ok(tensor(made, Shape::from(x.dims())))
}

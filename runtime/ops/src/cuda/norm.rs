//! Layer norm and root-mean-square norm of rows, a row added to each, and sums of columns.

use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, DType, Layout, Result, Shape, Tensor};

use super::launch::{Launcher, ROWS, Threads, Word};
use super::{on_gpu, tensor};

/// Rows that a block of `norm_columns` sums at least, and parts of rows at most: enough for every GPU, and little to add up.
const ROWS_OF_PART: usize = 64;
const PARTS_MAX: usize = 64;

fn parts_of(rows: usize) -> usize {
    rows.div_ceil(ROWS_OF_PART).min(PARTS_MAX)
}

/// `bias` added to each row of x.
pub(crate) fn biased(
    (x, layout): (&CudaStorage, &Layout),
    (bias, bias_layout): (&CudaStorage, &Layout),
) -> Result<(CudaStorage, Shape)> {
    let (count, dtype) = (layout.shape().elem_count(), x.dtype());
    let width = bias_layout.shape().elem_count();
    let launcher = Launcher::new(&x.device);
    let mut y = launcher.fresh(count, dtype)?;
    {
        let (x, bias) = (launcher.read(x, layout)?, launcher.read(bias, bias_layout)?);
        let to = launcher.write(&mut y, None)?;
        let words = [
            (&x).into(),
            (&bias).into(),
            (&to).into(),
            (count / width).into(),
            width.into(),
        ];
        launcher.run(
            &ROWS,
            ("biased", dtype),
            Threads::rows(count / width, width),
            &words,
        )?;
    }
    Ok((y, layout.shape().clone()))
}

/// Sums of the columns of `x`, [rows, width] in row-major order.
pub(crate) fn column_sums(x: &Tensor) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let dtype = x.dtype();
    let (storage, layout) = x.storage_and_layout();
    let numbers = on_gpu(&storage)?;
    let launcher = Launcher::new(&numbers.device);
    let parts = parts_of(rows);
    let mut sums = launcher.fresh(parts * width, DType::F32)?;
    let mut all = launcher.fresh(width, dtype)?;
    {
        let x = launcher.read(numbers, layout)?;
        let (sums, to) = (launcher.write(&mut sums, None)?, launcher.write(&mut all, None)?);
        let words = [(&x).into(), (&sums).into(), rows.into(), width.into()];
        launcher.run(
            &ROWS,
            ("column_sums", dtype),
            Threads::columns(width, parts),
            &words,
        )?;
        let words = [
            (&sums).into(),
            (&to).into(),
            parts.into(),
            width.into(),
            1_usize.into(),
        ];
        launcher.run(&ROWS, ("parts_added", dtype), Threads::elements(width), &words)?;
    }
    Ok(tensor(all, width))
}

/// Normal rows, times the weight, and the bias added. Without their mean where there is a bias.
pub(crate) fn norm(
    (x, layout): (&CudaStorage, &Layout),
    (weight, weight_layout): (&CudaStorage, &Layout),
    bias: Option<(&CudaStorage, &Layout)>,
    eps: f32,
) -> Result<(CudaStorage, Shape)> {
    let (count, dtype) = (layout.shape().elem_count(), x.dtype());
    let width = weight_layout.shape().elem_count();
    let launcher = Launcher::new(&x.device);
    let mut y = launcher.fresh(count, dtype)?;
    {
        let (x, weight) = (launcher.read(x, layout)?, launcher.read(weight, weight_layout)?);
        let bias = bias
            .map(|(bias, layout)| launcher.read(bias, layout))
            .transpose()?;
        let to = launcher.write(&mut y, None)?;
        let words = [
            (&x).into(),
            (&weight).into(),
            bias.as_ref().map_or(Word::NOTHING, Word::from),
            (&to).into(),
            (count / width).into(),
            width.into(),
            eps.into(),
            bias.is_some().into(),
        ];
        launcher.run(
            &ROWS,
            ("norm", dtype),
            Threads::rows(count / width, width),
            &words,
        )?;
    }
    Ok((y, layout.shape().clone()))
}

/// Gradients of x, and of weight and bias. Each in row-major order.
pub(crate) fn norm_gradients(
    [x, weight, grad]: [&Tensor; 3],
    centred: bool,
    eps: f32,
) -> Result<(Tensor, Tensor, Tensor)> {
    let (count, dtype) = (x.elem_count(), x.dtype());
    let width = weight.elem_count();
    let rows = count / width;
    let ((x_storage, x_layout), (weight_storage, weight_layout), (grad_storage, grad_layout)) = (
        x.storage_and_layout(),
        weight.storage_and_layout(),
        grad.storage_and_layout(),
    );
    let (x_numbers, weight_numbers, grad_numbers) = (
        on_gpu(&x_storage)?,
        on_gpu(&weight_storage)?,
        on_gpu(&grad_storage)?,
    );
    let launcher = Launcher::new(&x_numbers.device);
    let parts = parts_of(rows);
    let mut of_x = launcher.fresh(count, dtype)?;
    let mut of_others = launcher.fresh(2 * width, dtype)?;
    let mut normals = launcher.fresh(2 * rows, DType::F32)?;
    let mut sums = launcher.fresh(2 * parts * width, DType::F32)?;
    {
        let (x, grad) = (
            launcher.read(x_numbers, x_layout)?,
            launcher.read(grad_numbers, grad_layout)?,
        );
        let weight = launcher.read(weight_numbers, weight_layout)?;
        let (to, to_others) = (
            launcher.write(&mut of_x, None)?,
            launcher.write(&mut of_others, None)?,
        );
        let (normals, sums) = (
            launcher.write(&mut normals, None)?,
            launcher.write(&mut sums, None)?,
        );
        let words = [
            (&x).into(),
            (&weight).into(),
            (&grad).into(),
            (&to).into(),
            (&normals).into(),
            rows.into(),
            width.into(),
            eps.into(),
            centred.into(),
        ];
        launcher.run(
            &ROWS,
            ("norm_gradient", dtype),
            Threads::rows(rows, width),
            &words,
        )?;
        let words = [
            (&x).into(),
            (&grad).into(),
            (&normals).into(),
            (&sums).into(),
            rows.into(),
            width.into(),
        ];
        launcher.run(
            &ROWS,
            ("norm_columns", dtype),
            Threads::columns(width, parts),
            &words,
        )?;
        let words = [
            (&sums).into(),
            (&to_others).into(),
            parts.into(),
            width.into(),
            2_usize.into(),
        ];
        let threads = Threads::elements(2 * width);
        launcher.run(&ROWS, ("parts_added", dtype), threads, &words)?;
    }
    let of_others = tensor(of_others, (2, width));
    Ok((tensor(of_x, x.shape()), of_others.get(0)?, of_others.get(1)?))
}

//! A sum of two tensors and its gradients, in one pass over all threads.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};
use pulp::Simd;

use crate::chunks;
use crate::lanes::Lanes;
use crate::loops::{self, Map, Rows};
use crate::reduce;
use crate::values::{read, values};

/// x + y, where `y` may have fewer dimensions: those of `x` at its end, and is then added to each of them.
///
/// `x` is `[…, a, b]`, `y` `[…, a, b]`, `[a, b]` or `[b]`, of one dtype. Gradients go through to both. Other shapes that can be
/// broadcast are left to candle's `broadcast_add`, as is what is not `f32` on the CPU.
///
/// # Errors
/// Shapes that cannot be broadcast, and two dtypes.
pub fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let is_fused = x.dtype() == DType::F32 && x.device().is_cpu() && y.device().is_cpu();
    if is_fused && y.dtype() == DType::F32 && !y.dims().is_empty() && x.dims().ends_with(y.dims()) {
        x.apply_op2(y, Plus)
    } else if x.dims() == y.dims() {
        x + y
    } else {
        x.broadcast_add(y)
    }
}

struct Plus;

impl CustomOp2 for Plus {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        y: &CpuStorage,
        of_y: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, y) = (values(x, layout)?, values(y, of_y)?);
        let sums = if x.len() == y.len() {
            loops::map(Sum, [&x, &y])
        } else if y.is_empty() {
            bail!("add of {:?} and {:?}", layout.dims(), of_y.dims())
        } else {
            chunks::build_rows_by(x.len() / y.len(), y.len(), &EachRow { x: &x, y: &y }).0
        };
        Ok((CpuStorage::F32(sums), layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        y: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let of_y = match y.track_op() {
            false => None,
            true if x.dims() == y.dims() => Some(grad.clone()),
            true => Some(sum_of_rows(grad, y)?),
        };
        Ok((x.track_op().then(|| grad.clone()), of_y))
    }
}

/// What comes back for each element of `y`: the sum over all that it was added to.
fn sum_of_rows(grad: &Tensor, y: &Tensor) -> Result<Tensor> {
    let sums = read([grad], |[grads]| Ok(reduce::sum_of_rows(grads, y.elem_count())))?;
    Tensor::from_vec(sums, y.shape(), y.device())
}

/// A row of numbers added to each row.
struct EachRow<'a> {
    x: &'a [f32],
    y: &'a [f32],
}

impl Rows for EachRow<'_> {
    type Own = ();

    fn own(&self) {}

    #[inline(always)]
    fn write<'a, S: Simd>(
        &self,
        simd: S,
        row: usize,
        to: &'a mut [MaybeUninit<f32>],
        (): &mut (),
    ) -> &'a mut [f32] {
        let x = &self.x[row * self.y.len()..][..self.y.len()];
        loops::apply_aligned_by(simd, Sum, [x, self.y], to)
    }
}

#[derive(Clone, Copy)]
struct Sum;

impl Map<2> for Sum {
    #[inline(always)]
    fn of<S: Simd>(self, [x, y]: [Lanes<S>; 2]) -> Lanes<S> {
        x + y
    }
}

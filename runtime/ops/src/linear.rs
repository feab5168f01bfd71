//! A linear layer and its gradients: three products of matrices and one sum over rows.

use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor, bail,
};

use crate::chunks;
use crate::cuda;
use crate::gemm::{Into, Matrix, Out, Threads, multiply};
use crate::reduce;
use crate::values::{Path, for_kernel, path, read, rows, values};

/// x · weightᵀ + bias, along the last dimension.
///
/// `x` is `[…, in]`, `weight` `[out, in]`, `bias` `[out]`, all of one floating-point dtype; the result is `[…, out]`. Gradients go
/// through to all three. As PyTorch's `linear` and candle-nn's `Linear`.
///
/// # Errors
/// Other shapes or dtypes.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    apply(x, weight, bias, Lies::ByOutput)
}

/// x · weight + bias, along the last dimension: [`linear`] with a weight `[in, out]`, as GPT-2's files hold theirs.
///
/// # Errors
/// Other shapes or dtypes.
pub fn linear_turned(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    apply(x, weight, bias, Lies::ByInput)
}

fn apply(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, lies: Lies) -> Result<Tensor> {
    let plan = Plan::new(x, weight, bias, lies)?;
    match (path("linear", x)?, bias) {
        (Path::Fused, Some(bias)) => x.apply_op3(weight, bias, plan),
        (Path::Fused, None) => x.apply_op2(weight, plan),
        (Path::Widened, _) => {
            let bias = bias.map(|bias| bias.to_dtype(DType::F32)).transpose()?;
            apply(
                &x.to_dtype(DType::F32)?,
                &weight.to_dtype(DType::F32)?,
                bias.as_ref(),
                lies,
            )?
            .to_dtype(x.dtype())
        }
        (Path::Composed, _) => {
            let flat = x.reshape((plan.count, plan.inputs))?;
            let y = match lies {
                Lies::ByOutput => flat.matmul(&weight.t()?)?,
                Lies::ByInput => flat.matmul(weight)?,
            };
            let y = match bias {
                Some(bias) if cuda::takes(&y) => y.apply_op2(&for_kernel(bias)?, Biased)?,
                Some(bias) => y.broadcast_add(bias)?,
                None => y,
            };
            y.reshape(plan.shape(x.dims()))
        }
    }
}

/// A row of numbers added to each row, where kernels of ours run.
struct Biased;

impl CustomOp2 for Biased {
    fn name(&self) -> &'static str {
        "bias"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("this bias is added on a GPU")
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        cuda::biased((x, layout), (bias, bias_layout))
    }

    fn bwd(
        &self,
        _: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = for_kernel(grad)?;
        let of_bias = bias.track_op().then(|| cuda::column_sums(&grad)).transpose()?;
        Ok((Some(grad), of_bias))
    }
}

/// What a row of the weight belongs to.
#[derive(Clone, Copy, PartialEq)]
enum Lies {
    /// `[out, in]`.
    ByOutput,
    /// `[in, out]`.
    ByInput,
}

#[derive(Clone, Copy)]
struct Plan {
    count: usize,
    inputs: usize,
    outputs: usize,
    lies: Lies,
}

/// Multiplications of a product from which on all threads are woken for it.
const ALL_THREADS: usize = 1 << 18;

impl Plan {
    fn new(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, lies: Lies) -> Result<Self> {
        let (count, inputs) = rows("linear", x.dims())?;
        let &[first, second] = weight.dims() else {
            bail!("linear takes a matrix as weight, not {:?}", weight.dims())
        };
        let (outputs, each, wanted) = match lies {
            Lies::ByOutput => (first, second, format!("[out, {inputs}]")),
            Lies::ByInput => (second, first, format!("[{inputs}, out]")),
        };
        if each != inputs || bias.is_some_and(|bias| bias.dims() != [outputs]) {
            bail!(
                "linear of {:?} takes a weight {wanted} and a bias [out], not {:?} and {:?}",
                x.dims(),
                weight.dims(),
                bias.map(Tensor::dims)
            );
        }
        for other in [Some(weight), bias].into_iter().flatten() {
            if other.dtype() != x.dtype() {
                bail!(
                    "linear takes tensors of one dtype, not {:?} and {:?}",
                    x.dtype(),
                    other.dtype()
                );
            }
        }
        Ok(Self {
            count,
            inputs,
            outputs,
            lies,
        })
    }

    /// The weight as `[out, in]`, whichever way it lies.
    fn matrix<'a>(&self, weight: &'a [f32]) -> Matrix<'a> {
        match self.lies {
            Lies::ByOutput => Matrix::new(weight, self.outputs, self.inputs),
            Lies::ByInput => Matrix::new(weight, self.inputs, self.outputs).turned(),
        }
    }

    fn shape(&self, dims: &[usize]) -> Shape {
        let outer = &dims[..dims.len() - 1];
        Shape::from([outer, &[self.outputs]].concat())
    }

    fn threads(&self) -> Threads {
        if self.count * self.inputs * self.outputs < ALL_THREADS {
            Threads::One
        } else {
            Threads::All
        }
    }

    fn forward(&self, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let mut y = chunks::build_rows(self.count, self.outputs, |_, to| match bias {
            Some(bias) => to.write_copy_of_slice(bias),
            None => chunks::set(to, 0.0),
        });
        let x = Matrix::new(x, self.count, self.inputs);
        let weight = self.matrix(weight).turned();
        multiply(
            Out::new(&mut y, self.outputs),
            Into::Add,
            1.0,
            x,
            weight,
            self.threads(),
        );
        y
    }

    fn backward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        biased: bool,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let Self {
            count,
            inputs,
            outputs,
            lies,
        } = *self;
        let device = x.device();
        read([x, weight, grad], |[numbers, weights, grads]| {
            let grads_matrix = Matrix::new(grads, count, outputs);
            let product = |rows: usize, columns: usize, a: Matrix<'_>, b: Matrix<'_>| {
                let mut out = vec![0.0; rows * columns];
                multiply(
                    Out::new(&mut out, columns),
                    Into::Replace,
                    1.0,
                    a,
                    b,
                    self.threads(),
                );
                out
            };
            let of_x = x
                .track_op()
                .then(|| product(count, inputs, grads_matrix, self.matrix(weights)));
            let x_matrix = Matrix::new(numbers, count, inputs);
            let of_weight = weight.track_op().then(|| match lies {
                Lies::ByOutput => product(outputs, inputs, grads_matrix.turned(), x_matrix),
                Lies::ByInput => product(inputs, outputs, x_matrix.turned(), grads_matrix),
            });
            let of_bias = biased.then(|| reduce::sum_of_rows(grads, outputs));
            Ok([
                of_x.map(|made| Tensor::from_vec(made, x.shape(), device))
                    .transpose()?,
                of_weight
                    .map(|made| Tensor::from_vec(made, weight.shape(), device))
                    .transpose()?,
                of_bias
                    .map(|made| Tensor::from_vec(made, outputs, device))
                    .transpose()?,
            ])
        })
    }
}

impl CustomOp2 for Plan {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let y = self.forward(&values(x, layout)?, &values(weight, weight_layout)?, None);
        Ok((CpuStorage::F32(y), self.shape(layout.dims())))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [x, weight, _] = self.backward(x, weight, false, grad)?;
        Ok((x, weight))
    }
}

impl CustomOp3 for Plan {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let bias = values(bias, bias_layout)?;
        let y = self.forward(&values(x, layout)?, &values(weight, weight_layout)?, Some(&bias));
        Ok((CpuStorage::F32(y), self.shape(layout.dims())))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [x, weight, bias] = self.backward(x, weight, bias.track_op(), grad)?;
        Ok((x, weight, bias))
    }
}

//! Cross-entropy from logits: log-softmax and the likelihood of labels in one pass.

use std::mem::MaybeUninit;
use std::sync::OnceLock;

use candle_core::{CpuStorage, CudaStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};
use pulp::Simd;

use crate::chunks;
use crate::cuda;
use crate::lanes::Lanes;
use crate::loops::{self, Itself, Map};
use crate::math;
use crate::softmax::{LogSum, composed_log_softmax};
use crate::values::{Path, for_kernel, path, read, rounded, rows, values};

/// The mean of -log softmax(logits) at `labels`.
///
/// `logits` is `[…, classes]` of a floating-point dtype, `labels` is `[…]` of `u32` (or another whole-number dtype), each below
/// `classes`. The result is a scalar of the dtype of `logits`; the gradient goes through to them. As PyTorch's
/// `cross_entropy` and `candle_nn::loss::cross_entropy`.
///
/// # Errors
/// Other shapes or dtypes, or a label that is no class. Where labels are on a GPU and our kernels run there, such a label makes
/// the loss no number instead: every step would have to wait for the GPU to hear of it.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    CrossEntropy::default().of(logits, labels)
}

/// [`cross_entropy`] with the options that PyTorch has.
#[derive(Clone, Debug, Default)]
pub struct CrossEntropy {
    /// The part of each label that is spread over all classes, from 0 to 1.
    pub label_smoothing: f32,
    /// Rows with this label don't count.
    pub ignore_label: Option<u32>,
    /// A weight for each class; the mean is by them.
    pub class_weights: Option<Vec<f32>>,
}

impl CrossEntropy {
    /// The loss; 0 where no row counts. Shapes, dtypes and errors are those of [`cross_entropy`].
    ///
    /// # Errors
    /// As [`cross_entropy`]; or the weights are not as many as the classes.
    pub fn of(&self, logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
        const NAME: &str = "cross_entropy";
        if cuda::takes(logits) {
            return for_kernel(logits)?.apply_op1(self.on_gpu(logits, labels)?);
        }
        match path(NAME, logits)? {
            Path::Fused => {
                let rows = self.rows(logits, labels)?;
                logits.apply_op1(rows)
            }
            Path::Widened => self
                .of(&logits.to_dtype(DType::F32)?, labels)?
                .to_dtype(logits.dtype()),
            Path::Composed => self.rows(logits, labels)?.composed(logits),
        }
    }

    /// Shapes, dtypes and options. How many rows and classes there are.
    fn check(&self, logits: &Tensor, labels: &Tensor) -> Result<(usize, usize)> {
        let (count, classes) = rows("cross_entropy", logits.dims())?;
        if labels.dims() != &logits.dims()[..logits.dims().len() - 1] {
            bail!(
                "cross_entropy of logits {:?} takes a label for each row, not {:?}",
                logits.dims(),
                labels.dims()
            );
        }
        if labels.dtype().is_float() {
            bail!(
                "cross_entropy takes labels of whole numbers, not {:?}",
                labels.dtype()
            );
        }
        if !(0.0..=1.0).contains(&self.label_smoothing) {
            bail!("label_smoothing is from 0 to 1, not {}", self.label_smoothing);
        }
        match &self.class_weights {
            Some(weights) if weights.len() != classes => bail!(
                "cross_entropy of {classes} classes takes as many weights, not {}",
                weights.len()
            ),
            _ => Ok((count, classes)),
        }
    }

    /// The rows for our kernels. Nothing waits for a GPU here.
    fn on_gpu(&self, logits: &Tensor, labels: &Tensor) -> Result<OnGpu> {
        let (_, classes) = self.check(logits, labels)?;
        if labels.device().is_cpu() {
            // They are at hand: a label that is no class is told.
            self.rows(logits, labels)?;
        }
        let device = logits.device();
        let labels = labels.flatten_all()?.to_device(device)?;
        let weights = self.class_weights.as_deref();
        Ok(OnGpu {
            costs: Costs {
                labels: labels.to_dtype(DType::I64)?.contiguous()?,
                weights: weights
                    .map(|weights| Tensor::from_slice(weights, classes, device))
                    .transpose()?,
                all_weights: weights.map_or(classes as f32, |weights| weights.iter().sum()),
                smoothing: self.label_smoothing,
                ignored: self.ignore_label,
            },
            kept: OnceLock::new(),
        })
    }

    fn rows(&self, logits: &Tensor, labels: &Tensor) -> Result<Rows> {
        let (count, classes) = self.check(logits, labels)?;
        let weights = self.class_weights.clone().unwrap_or_else(|| vec![1.0; classes]);
        // Signed, so that a negative label is refused rather than wrapped around to some class.
        let labels = labels.flatten_all()?.to_dtype(DType::I64)?.to_vec1::<i64>()?;
        let ignored = self.ignore_label.map(i64::from);
        let mut rows = Rows {
            labels: Vec::with_capacity(count),
            weights,
            total: 0.0,
            smoothing: self.label_smoothing,
            log_sums: OnceLock::new(),
        };
        for label in labels {
            if Some(label) == ignored {
                rows.labels.push(None);
                continue;
            }
            match usize::try_from(label) {
                Ok(label) if label < classes => {
                    rows.total += f64::from(rows.weights[label]);
                    rows.labels.push(Some(label));
                }
                _ => bail!("label {label} is no class: there are {classes}"),
            }
        }
        Ok(rows)
    }
}

/// What is known of each row: its label, where it counts.
struct Rows {
    labels: Vec<Option<usize>>,
    weights: Vec<f32>,
    /// The sum of weights of the rows that count.
    total: f64,
    smoothing: f32,
    /// Of each row, once the forward pass has been made: the gradient takes half of the work by them.
    log_sums: OnceLock<Vec<LogSum>>,
}

impl Rows {
    /// What a row's weights for its label and for every class are, over the total.
    fn shares(&self, label: usize) -> (f32, f32) {
        let total = if self.total == 0.0 { 1.0 } else { self.total };
        let label = f64::from(1.0 - self.smoothing) * f64::from(self.weights[label]) / total;
        let every = f64::from(self.smoothing) / self.weights.len() as f64 / total;
        (rounded(label), rounded(every))
    }

    /// By candle's ops: the logarithms at labels, times the share of each row.
    fn composed(&self, logits: &Tensor) -> Result<Tensor> {
        let (count, classes) = rows("cross_entropy", logits.dims())?;
        if count * classes == 0 {
            return Tensor::zeros((), logits.dtype(), logits.device());
        }
        let device = logits.device();
        let shares = self
            .labels
            .iter()
            .map(|label| label.map_or((0.0, 0.0), |label| self.shares(label)));
        let (own, every): (Vec<f32>, Vec<f32>) = shares.unzip();
        let own = Tensor::from_vec(own, (count, 1), device)?.to_dtype(logits.dtype())?;
        // A label of a row that doesn't count is any class: its share is 0.
        let labels = self
            .labels
            .iter()
            .map(|label| u32::try_from(label.unwrap_or(0)).map_err(candle_core::Error::wrap));
        let labels = Tensor::from_vec(labels.collect::<Result<Vec<u32>>>()?, (count, 1), device)?;
        let log = composed_log_softmax(&self.counted(&logits.reshape((count, classes))?)?)?;
        let mut likelihood = (log.gather(&labels, 1)? * own)?.sum_all()?;
        if self.smoothing > 0.0 {
            let every = Tensor::from_vec(every, (count, 1), device)?.to_dtype(logits.dtype())?;
            let weights =
                Tensor::from_slice(&self.weights, (classes, 1), device)?.to_dtype(logits.dtype())?;
            likelihood = (likelihood + (log.matmul(&weights)? * every)?.sum_all()?)?;
        }
        likelihood.neg()
    }

    /// `logits`, `[rows, classes]`, with zeros for the rows that don't count: infinity times their share of 0 would be no
    /// number. No gradient goes to those.
    fn counted(&self, logits: &Tensor) -> Result<Tensor> {
        if self.labels.iter().all(Option::is_some) {
            return Ok(logits.clone());
        }
        let counts: Vec<u8> = self
            .labels
            .iter()
            .map(|label| u8::from(label.is_some()))
            .collect();
        Tensor::from_vec(counts, (self.labels.len(), 1), logits.device())?
            .broadcast_as(logits.shape())?
            .where_cond(logits, &logits.zeros_like()?)
    }

    /// The loss of a row, before it is summed.
    fn loss(&self, x: &[f32], log_sum: LogSum, label: usize) -> f32 {
        let (own, every) = self.shares(label);
        let mut loss = own * ((log_sum.most - x[label]) + log_sum.ln);
        if every > 0.0 {
            loss += every * loops::sum(Cost(log_sum), [x, &self.weights]);
        }
        loss
    }

    fn gradient<'a>(
        &self,
        x: &[f32],
        log_sum: LogSum,
        grad: f32,
        to: &'a mut [MaybeUninit<f32>],
        label: usize,
    ) -> &'a mut [f32] {
        let (own, every) = self.shares(label);
        let to = if every > 0.0 {
            let scale = grad * (own + every * loops::sum(Itself, [&self.weights]));
            loops::apply(
                Smooth {
                    log_sum,
                    scale,
                    every: every * grad,
                },
                [x, &self.weights],
                to,
            )
        } else {
            loops::apply(
                Softmax {
                    log_sum,
                    scale: grad * own,
                },
                [x],
                to,
            )
        };
        to[label] -= grad * own;
        to
    }
}

impl CustomOp1 for Rows {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let (count, width) = rows(self.name(), layout.dims())?;
        let made = chunks::collect(count, chunks::rows_of_chunk(width), |range| {
            let mut log_sums = Vec::with_capacity(range.len());
            let sum = range
                .filter_map(|row| {
                    let x = &x[row * width..][..width];
                    // Rows that don't count have one as well: it is found by the number of the row.
                    let log_sum = self.labels[row].map(|_| LogSum::of_row(x));
                    log_sums.push(log_sum.unwrap_or_default());
                    Some(f64::from(self.loss(x, log_sum?, self.labels[row]?)))
                })
                .sum::<f64>();
            (sum, log_sums)
        });
        let (sums, log_sums): (Vec<f64>, Vec<Vec<LogSum>>) = made.into_iter().unzip();
        // An op object is made for one forward pass.
        self.log_sums.get_or_init(|| log_sums.concat());
        let loss = rounded(sums.iter().sum::<f64>());
        Ok((CpuStorage::F32(vec![loss]), Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.to_scalar::<f32>()?;
        let (count, width) = rows(self.name(), logits.dims())?;
        let known = self.log_sums.get();
        let made = read([logits], |[x]| {
            Ok(chunks::build_rows(count, width, |row, to| {
                let Some(label) = self.labels[row] else {
                    return chunks::set(to, 0.0);
                };
                let x = &x[row * width..][..width];
                let log_sum = known.map_or_else(|| LogSum::of_row(x), |known| known[row]);
                self.gradient(x, log_sum, grad, to, label)
            }))
        })?;
        Tensor::from_vec(made, logits.shape(), logits.device()).map(Some)
    }
}

/// The rows as a GPU's kernels take them.
struct OnGpu {
    costs: Costs,
    /// Of the forward pass, for the gradient: an op object is made for one.
    kept: OnceLock<[Tensor; 2]>,
}

/// What is known of the rows: labels, `i64` on the GPU in row-major order, and the options.
#[cfg_attr(
    not(all(target_os = "linux", target_arch = "x86_64")),
    expect(dead_code, reason = "there are no GPUs")
)]
#[derive(Debug)]
pub(crate) struct Costs {
    pub(crate) labels: Tensor,
    /// Of each class, `f32`.
    pub(crate) weights: Option<Tensor>,
    /// The sum of the weights of all classes.
    pub(crate) all_weights: f32,
    pub(crate) smoothing: f32,
    pub(crate) ignored: Option<u32>,
}

impl CustomOp1 for OnGpu {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("these labels are on a GPU")
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (mean, kept) = cuda::mean_cost(&self.costs, storage, layout)?;
        self.kept.get_or_init(|| kept);
        Ok((mean, Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let Some(kept) = self.kept.get() else {
            bail!("a gradient goes back through what went forward")
        };
        cuda::cost_gradient(&self.costs, [logits, &for_kernel(grad)?], kept).map(Some)
    }
}

/// -log softmax(x) · weight.
#[derive(Clone, Copy)]
struct Cost(LogSum);

impl Map<2> for Cost {
    #[inline(always)]
    fn of<S: Simd>(self, [x, weight]: [Lanes<S>; 2]) -> Lanes<S> {
        -self.0.taken_from(x) * weight
    }
}

/// softmax(x) · scale.
#[derive(Clone, Copy)]
struct Softmax {
    log_sum: LogSum,
    scale: f32,
}

impl Map<1> for Softmax {
    #[inline(always)]
    fn of<S: Simd>(self, [x]: [Lanes<S>; 1]) -> Lanes<S> {
        math::exp_falling(self.log_sum.taken_from(x)) * self.scale
    }
}

/// softmax(x) · scale - every · weight.
#[derive(Clone, Copy)]
struct Smooth {
    log_sum: LogSum,
    scale: f32,
    every: f32,
}

impl Map<2> for Smooth {
    #[inline(always)]
    fn of<S: Simd>(self, [x, weight]: [Lanes<S>; 2]) -> Lanes<S> {
        math::exp_falling(self.log_sum.taken_from(x)) * self.scale - weight * self.every
    }
}

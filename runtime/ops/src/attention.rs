//! Scaled dot-product attention: scores of a block of queries at a time, never of all of them.
//!
//! The backward pass makes the same scores again. Blocks depend on shapes alone.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Storage, Tensor, bail};
use pulp::Simd;

use crate::chunks;
use crate::cuda;
use crate::gemm::{Into, Matrix, Out, Threads, multiply};
use crate::lanes::Lanes;
use crate::loops::{self, Added, Product, Update};
use crate::softmax;
use crate::values::{Path, path};

/// Which keys a query takes no account of.
#[derive(Clone, Debug)]
pub enum Mask {
    /// Every query sees every key.
    None,
    /// A query sees the keys up to its own place; the last query that of the last key.
    Causal,
    /// Added to the scores, before softmax; minus infinity shuts out. Broadcast to `[batch, heads, queries, keys]`; it gets no
    /// gradient.
    Added(Tensor),
}

/// softmax(q kᵀ · scale, masked) v.
///
/// `q` is `[batch, heads, queries, size]`, `k` `[batch, heads, keys, size]`, `v` `[batch, heads, keys, value size]`, all of one
/// floating-point dtype; the result is `[batch, heads, queries, value size]`, and lies in memory so that `transpose(1, 2)` of it
/// is contiguous. A query that sees no key gets zeros. Gradients go through to `q`, `k` and `v`. As PyTorch's
/// `scaled_dot_product_attention` with `scale`.
///
/// # Errors
/// Other shapes or dtypes.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, mask: &Mask, scale: f32) -> Result<Tensor> {
    let sizes = Sizes::new(q, k, v)?;
    match path("attention", q)? {
        Path::Fused => {
            let added = match mask {
                Mask::Added(added) => {
                    Some(sizes.broadcast(&added.detach().to_dtype(DType::F32)?.contiguous()?)?)
                }
                _ => None,
            };
            q.apply_op3(
                k,
                v,
                Attention {
                    sizes,
                    causal: matches!(mask, Mask::Causal),
                    added,
                    scale,
                },
            )?
            .transpose(1, 2)
        }
        Path::Widened => {
            let [q32, k, v] = [
                q.to_dtype(DType::F32)?,
                k.to_dtype(DType::F32)?,
                v.to_dtype(DType::F32)?,
            ];
            attention(&q32, &k, &v, mask, scale)?.to_dtype(q.dtype())
        }
        Path::Composed => composed(&sizes, [q, k, v], mask, scale),
    }
}

fn composed(sizes: &Sizes, [q, k, v]: [&Tensor; 3], mask: &Mask, scale: f32) -> Result<Tensor> {
    let Sizes {
        batch,
        heads,
        queries,
        keys,
        value,
        ..
    } = *sizes;
    // No number is the largest of none.
    if batch * heads * queries * keys == 0 {
        return Tensor::zeros((batch, heads, queries, value), q.dtype(), q.device());
    }
    let scores = q.contiguous()?.matmul(&k.transpose(2, 3)?.contiguous()?)?;
    if cuda::takes(&scores) {
        return softmax_by_kernel(&scores, mask, scale)?.matmul(&v.contiguous()?);
    }
    let scores = (scores * f64::from(scale))?;
    let added = match mask {
        Mask::None => None,
        Mask::Causal => {
            let shut = |row: usize| {
                (0..keys).map(move |key| {
                    if key < sizes.seen(row) {
                        0f32
                    } else {
                        f32::NEG_INFINITY
                    }
                })
            };
            let shut: Vec<f32> = (0..queries).flat_map(shut).collect();
            Some(Tensor::from_vec(shut, (queries, keys), q.device())?)
        }
        Mask::Added(added) => Some(added.detach()),
    };
    let scores = match added {
        Some(added) => scores.broadcast_add(&added.to_dtype(q.dtype())?)?,
        None => scores,
    };
    softmax::composed_masked_softmax(&scores)?.matmul(&v.contiguous()?)
}

/// Softmax of the scores where kernels of ours run: in one pass over them, where nothing is added.
fn softmax_by_kernel(scores: &Tensor, mask: &Mask, scale: f32) -> Result<Tensor> {
    match mask {
        Mask::None => softmax::of_scores(scores, scale, false),
        Mask::Causal => softmax::of_scores(scores, scale, true),
        Mask::Added(added) => {
            let added = added.detach().to_dtype(scores.dtype())?;
            softmax::of_scores(&(scores * f64::from(scale))?.broadcast_add(&added)?, 1.0, false)
        }
    }
}

#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    size: usize,
    value: usize,
}

impl Sizes {
    fn new(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Self> {
        if let (
            &[batch, heads, queries, size],
            &[k_batch, k_heads, keys, k_size],
            &[v_batch, v_heads, v_keys, value],
        ) = (q.dims(), k.dims(), v.dims())
        {
            let fit = [k_batch, k_heads, k_size, v_batch, v_heads, v_keys]
                == [batch, heads, size, batch, heads, keys];
            if fit && q.dtype() == k.dtype() && q.dtype() == v.dtype() {
                return Ok(Self {
                    batch,
                    heads,
                    queries,
                    keys,
                    size,
                    value,
                });
            }
        }
        bail!(
            "attention takes q [b, h, n, d], k [b, h, m, d] and v [b, h, m, e] of one dtype, not {:?}, {:?} and {:?} of {:?}, {:?} and {:?}",
            q.dims(),
            k.dims(),
            v.dims(),
            q.dtype(),
            k.dtype(),
            v.dtype()
        )
    }

    fn broadcast(&self, mask: &Tensor) -> Result<Tensor> {
        mask.broadcast_as((self.batch, self.heads, self.queries, self.keys))
    }

    /// How many keys a query sees under the causal mask.
    fn seen(&self, query: usize) -> usize {
        (query + 1 + self.keys)
            .saturating_sub(self.queries)
            .min(self.keys)
    }
}

/// Queries whose scores are made together.
const BLOCK: usize = 64;

struct Attention {
    sizes: Sizes,
    causal: bool,
    added: Option<Tensor>,
    scale: f32,
}

/// The numbers of `[batch, heads, rows, columns]` as they lie.
#[derive(Clone, Copy)]
struct Heads<'a> {
    data: &'a [f32],
    strides: [usize; 4],
    columns: usize,
}

impl<'a> Heads<'a> {
    fn new(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let (&[a, b, c, d], &[_, _, _, columns]) = (layout.stride(), layout.dims()) else {
            bail!("attention takes four dimensions")
        };
        let all = storage.as_slice::<f32>()?;
        Ok(Self {
            data: &all[layout.start_offset().min(all.len())..],
            strides: [a, b, c, d],
            columns,
        })
    }

    fn rows(&self, [batch, head]: [usize; 2], rows: Range<usize>) -> Matrix<'a> {
        let [a, b, c, d] = self.strides;
        let start = if rows.is_empty() {
            0
        } else {
            batch * a + head * b + rows.start * c
        };
        Matrix::strided(&self.data[start..], [rows.len(), self.columns], [c, d])
    }
}

impl Attention {
    /// Keys that any of these queries sees.
    fn seen(&self, queries: &Range<usize>) -> usize {
        if self.causal {
            self.sizes.seen(queries.end.saturating_sub(1))
        } else {
            self.sizes.keys
        }
    }

    /// Lends the numbers of the mask that is added, if there is one.
    fn with_added<R>(&self, work: impl FnOnce(Option<Heads<'_>>) -> Result<R>) -> Result<R> {
        let Some(added) = &self.added else {
            return work(None);
        };
        let (storage, layout) = added.storage_and_layout();
        match &*storage {
            Storage::Cpu(storage) => work(Some(Heads::new(storage, layout)?)),
            _ => bail!("a mask on the CPU was expected"),
        }
    }

    /// Writes the weights of keys for some queries of a head: `[queries, keys that are seen]`.
    fn weights(
        &self,
        at: [usize; 2],
        queries: &Range<usize>,
        [q, k]: [Heads<'_>; 2],
        added: Option<Heads<'_>>,
        to: &mut [f32],
        threads: Threads,
    ) {
        let seen = self.seen(queries);
        let scores = Out::new(to, seen);
        multiply(
            scores,
            Into::Replace,
            self.scale,
            q.rows(at, queries.clone()),
            k.rows(at, 0..seen).turned(),
            threads,
        );
        for (query, row) in queries.clone().zip(to.chunks_mut(seen.max(1))) {
            if let Some(added) = added {
                added.add_row(at, query, row);
            }
            let (row, unseen) = row.split_at_mut(if self.causal { self.sizes.seen(query) } else { seen });
            softmax::in_place(row);
            unseen.fill(0.0);
        }
    }

    fn forward(&self, [q, k, v]: [Heads<'_>; 3], added: Option<Heads<'_>>) -> Vec<f32> {
        let Sizes {
            batch,
            heads,
            queries,
            value,
            ..
        } = self.sizes;
        let width = heads * value;
        let threads = if batch * queries <= BLOCK {
            Threads::All
        } else {
            Threads::One
        };
        chunks::build(batch * queries * width, BLOCK * width.max(1), |start, mut to| {
            let mut row = start / width.max(1);
            let mut weights = Vec::new();
            while !to.is_empty() {
                let (sample, first) = (row / queries, row % queries);
                let block = first..queries.min(first + to.len() / width);
                let (now, rest) = to.split_at_mut(block.len() * width);
                let seen = self.seen(&block);
                weights.resize(block.len() * seen, 0.0);
                for head in 0..heads {
                    self.weights([sample, head], &block, [q, k], added, &mut weights, threads);
                    let out = Out::new(&mut now[head * value..], width);
                    let weights = Matrix::new(&weights, block.len(), seen);
                    multiply(
                        out,
                        Into::Replace,
                        1.0,
                        weights,
                        v.rows([sample, head], 0..seen),
                        threads,
                    );
                }
                (row, to) = (row + block.len(), rest);
            }
        })
    }

    /// Gradients of one head's keys and values; that of its queries is written.
    fn head_backward(
        &self,
        at: [usize; 2],
        [q, k, v, grad]: [Heads<'_>; 4],
        added: Option<Heads<'_>>,
        q_grad: &mut [f32],
        threads: Threads,
    ) -> [Vec<f32>; 2] {
        let Sizes {
            queries,
            keys,
            size,
            value,
            ..
        } = self.sizes;
        let (mut k_grad, mut v_grad) = (vec![0.0; keys * size], vec![0.0; keys * value]);
        let (mut weights, mut slopes) = (Vec::new(), Vec::new());
        for first in (0..queries).step_by(BLOCK) {
            let block = first..(first + BLOCK).min(queries);
            let seen = self.seen(&block);
            weights.resize(block.len() * seen, 0.0);
            slopes.resize(block.len() * seen, 0.0);
            self.weights(at, &block, [q, k], added, &mut weights, threads);
            let grad = grad.rows(at, block.clone());
            let by_key = Matrix::new(&weights, block.len(), seen).turned();
            multiply(
                Out::new(&mut v_grad, value),
                Into::Add,
                1.0,
                by_key,
                grad,
                threads,
            );
            let values = v.rows(at, 0..seen).turned();
            multiply(
                Out::new(&mut slopes, seen),
                Into::Replace,
                1.0,
                grad,
                values,
                threads,
            );
            for (slope, weight) in slopes.chunks_mut(seen.max(1)).zip(weights.chunks(seen.max(1))) {
                loops::change(ScoreSlope(loops::sum(Product, [weight, slope])), [weight], slope);
            }
            let slopes = Matrix::new(&slopes, block.len(), seen);
            let q_grad = Out::new(&mut q_grad[first * size..], size);
            multiply(
                q_grad,
                Into::Replace,
                self.scale,
                slopes,
                k.rows(at, 0..seen),
                threads,
            );
            let queries = q.rows(at, block.clone());
            multiply(
                Out::new(&mut k_grad, size),
                Into::Add,
                self.scale,
                slopes.turned(),
                queries,
                threads,
            );
        }
        [k_grad, v_grad]
    }

    fn backward(&self, inputs: [Heads<'_>; 4], added: Option<Heads<'_>>) -> [Vec<f32>; 3] {
        let Sizes {
            batch,
            heads,
            queries,
            size,
            ..
        } = self.sizes;
        let head = queries * size;
        let threads = if batch * heads == 1 {
            Threads::All
        } else {
            Threads::One
        };
        let (q_grad, others) = chunks::build_with(batch * heads * head, head.max(1), |start, to| {
            let index = start / head.max(1);
            self.head_backward([index / heads, index % heads], inputs, added, to, threads)
        });
        let (k_grads, v_grads): (Vec<_>, Vec<_>) = others.into_iter().map(|[k, v]| (k, v)).unzip();
        [q_grad, k_grads.concat(), v_grads.concat()]
    }
}

impl Heads<'_> {
    fn add_row(&self, [batch, head]: [usize; 2], row: usize, to: &mut [f32]) {
        let [a, b, c, d] = self.strides;
        let from = &self.data[batch * a + head * b + row * c..];
        match d {
            1 => loops::change(Added, [from], to),
            0 => to.iter_mut().for_each(|to| *to += from[0]),
            _ => to
                .iter_mut()
                .zip(from.iter().step_by(d))
                .for_each(|(to, from)| *to += from),
        }
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let inputs = [
            Heads::new(q, q_layout)?,
            Heads::new(k, k_layout)?,
            Heads::new(v, v_layout)?,
        ];
        let Sizes {
            batch,
            heads,
            queries,
            value,
            ..
        } = self.sizes;
        let made = self.with_added(|added| Ok(self.forward(inputs, added)))?;
        Ok((CpuStorage::F32(made), Shape::from((batch, queries, heads, value))))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.transpose(1, 2)?;
        if self.sizes.batch * self.sizes.heads * self.sizes.queries * self.sizes.size == 0 {
            return Ok((
                Some(q.zeros_like()?),
                Some(k.zeros_like()?),
                Some(v.zeros_like()?),
            ));
        }
        let tensors = [q, k, v, &grad];
        let guards = tensors.map(Tensor::storage_and_layout);
        let mut inputs = Vec::with_capacity(4);
        for (storage, layout) in &guards {
            match &**storage {
                Storage::Cpu(storage) => inputs.push(Heads::new(storage, layout)?),
                _ => bail!("a tensor on the CPU was expected"),
            }
        }
        let inputs = [inputs[0], inputs[1], inputs[2], inputs[3]];
        let [q_grad, k_grad, v_grad] = self.with_added(|added| Ok(self.backward(inputs, added)))?;
        let tensor = |made: Vec<f32>, like: &Tensor| Tensor::from_vec(made, like.shape(), like.device());
        Ok((
            Some(tensor(q_grad, q)?),
            Some(tensor(k_grad, k)?),
            Some(tensor(v_grad, v)?),
        ))
    }
}

/// The gradient of scores, from that of weights, where it stands.
#[derive(Clone, Copy)]
struct ScoreSlope(f32);

impl Update<1> for ScoreSlope {
    #[inline(always)]
    fn of<S: Simd>(self, slope: Lanes<S>, [weight]: [Lanes<S>; 1]) -> Lanes<S> {
        (slope - self.0) * weight
    }
}

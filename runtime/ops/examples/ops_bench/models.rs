//! Small models that are trained by both sides: a perceptron, a convolutional net, a transformer.

use alephlab_ops as ops;
use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};

/// Whose ops a model runs on.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Side {
    Ours,
    Candle,
}

/// Parameters, and an optimiser for them.
pub(crate) struct Trained {
    side: Side,
    vars: Vec<Var>,
    moments: Vec<ops::Moments>,
    optimiser: AdamW,
}

impl Trained {
    fn new(side: Side, shapes: &[&[usize]]) -> Result<Self> {
        let var = |shape: &&[usize]| {
            let inputs: usize = shape.iter().skip(1).product();
            Var::from_tensor(&Tensor::randn(
                0f32,
                1f32 / (inputs as f32).sqrt(),
                *shape,
                &Device::Cpu,
            )?)
        };
        let vars: Vec<Var> = shapes.iter().map(var).collect::<Result<_>>()?;
        let moments = vars.iter().map(ops::Moments::new).collect::<Result<_>>()?;
        let optimiser = AdamW::new(vars.clone(), ParamsAdamW::default())?;
        Ok(Self {
            side,
            vars,
            moments,
            optimiser,
        })
    }

    fn step(&mut self, loss: &Tensor) -> Result<()> {
        if self.side == Side::Candle {
            return self.optimiser.backward_step(loss);
        }
        let grads = loss.backward()?;
        for (var, moments) in self.vars.iter().zip(&mut self.moments) {
            if let Some(grad) = grads.get(var) {
                ops::adamw_step(var, grad, moments, &ops::AdamW::default())?;
            }
        }
        Ok(())
    }

    fn linear(&self, x: &Tensor, at: usize) -> Result<Tensor> {
        let (weight, bias) = (&self.vars[at], &self.vars[at + 1]);
        match self.side {
            Side::Ours => ops::linear(x, weight, Some(bias)),
            Side::Candle => candle_nn::Module::forward(
                &candle_nn::Linear::new(weight.as_tensor().clone(), Some(bias.as_tensor().clone())),
                x,
            ),
        }
    }

    fn relu(&self, x: &Tensor) -> Result<Tensor> {
        if self.side == Side::Ours {
            ops::relu(x)
        } else {
            x.relu()
        }
    }

    fn cross_entropy(&self, logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
        match self.side {
            Side::Ours => ops::cross_entropy(logits, labels),
            Side::Candle => candle_nn::loss::cross_entropy(logits, labels),
        }
    }
}

/// 784-256-128-10.
pub(crate) struct Perceptron(Trained);

impl Perceptron {
    pub(crate) fn new(side: Side) -> Result<Self> {
        Trained::new(
            side,
            &[&[256, 784], &[256], &[128, 256], &[128], &[10, 128], &[10]],
        )
        .map(Self)
    }

    /// Trains on images `[n, 784]` in batches of 128.
    pub(crate) fn epoch(&mut self, images: &Tensor, labels: &Tensor) -> Result<()> {
        for first in (0..images.dim(0)? - 127).step_by(128) {
            let x = images.narrow(0, first, 128)?;
            let hidden = self.0.relu(&self.0.linear(&x, 0)?)?;
            let hidden = self.0.relu(&self.0.linear(&hidden, 2)?)?;
            let loss = self
                .0
                .cross_entropy(&self.0.linear(&hidden, 4)?, &labels.narrow(0, first, 128)?)?;
            self.0.step(&loss)?;
        }
        Ok(())
    }
}

/// Two 5×5 convolutions to 32 and 64 channels, each with ReLU and pooled, then 1024-1024-10.
pub(crate) struct Convolutional(Trained);

impl Convolutional {
    pub(crate) fn new(side: Side) -> Result<Self> {
        let shapes: [&[usize]; 8] = [
            &[32, 1, 5, 5],
            &[32],
            &[64, 32, 5, 5],
            &[64],
            &[1024, 1024],
            &[1024],
            &[10, 1024],
            &[10],
        ];
        Trained::new(side, &shapes).map(Self)
    }

    fn layer(&self, x: &Tensor, at: usize) -> Result<Tensor> {
        let (weight, bias) = (&self.0.vars[at], &self.0.vars[at + 1]);
        match self.0.side {
            Side::Ours => {
                let y = ops::conv2d(x, weight, Some(bias), &ops::Conv2d::default())?;
                ops::max_pool2d(&ops::relu(&y)?, 2, 2)
            }
            Side::Candle => {
                let bias = bias.reshape((1, bias.elem_count(), 1, 1))?;
                x.conv2d(weight, 0, 1, 1, 1)?
                    .broadcast_add(&bias)?
                    .relu()?
                    .max_pool2d(2)
            }
        }
    }

    /// Logits of images `[n, 1, 28, 28]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.layer(&self.layer(x, 0)?, 2)?.flatten_from(1)?;
        self.0.linear(&self.0.relu(&self.0.linear(&x, 4)?)?, 6)
    }

    pub(crate) fn step(&mut self, x: &Tensor, labels: &Tensor) -> Result<()> {
        let loss = self.0.cross_entropy(&self.forward(x)?, labels)?;
        self.0.step(&loss)
    }
}

/// Four pre-norm layers of width 256 with 4 heads.
pub(crate) struct Transformer(Trained);

const WIDTH: usize = 256;
const HEADS: usize = 4;
const LAYERS: usize = 4;
const VARS: usize = 12;

impl Transformer {
    pub(crate) fn new(side: Side) -> Result<Self> {
        let layer: [&[usize]; VARS] = [
            &[WIDTH],
            &[WIDTH],
            &[3 * WIDTH, WIDTH],
            &[3 * WIDTH],
            &[WIDTH, WIDTH],
            &[WIDTH],
            &[WIDTH],
            &[WIDTH],
            &[4 * WIDTH, WIDTH],
            &[4 * WIDTH],
            &[WIDTH, 4 * WIDTH],
            &[WIDTH],
        ];
        Trained::new(side, &layer.repeat(LAYERS)).map(Self)
    }

    fn norm(&self, x: &Tensor, at: usize) -> Result<Tensor> {
        let (weight, bias) = (&self.0.vars[at], &self.0.vars[at + 1]);
        match self.0.side {
            Side::Ours => ops::layer_norm(x, weight, bias, 1e-5),
            Side::Candle => candle_nn::ops::layer_norm_slow(x, weight, bias, 1e-5),
        }
    }

    fn attend(&self, x: &Tensor, at: usize) -> Result<Tensor> {
        let (batch, tokens, _) = x.dims3()?;
        let all = self
            .0
            .linear(x, at)?
            .reshape((batch, tokens, 3, HEADS, WIDTH / HEADS))?;
        let part = |index: usize| all.narrow(2, index, 1)?.squeeze(2)?.transpose(1, 2);
        let (q, k, v) = (part(0)?, part(1)?, part(2)?);
        // One over the root of 64.
        let scale = 0.125f32;
        let y = match self.0.side {
            Side::Ours => ops::attention(&q, &k, &v, &ops::Mask::None, scale)?,
            Side::Candle => {
                let scores = (q.contiguous()?.matmul(&k.contiguous()?.t()?)? * f64::from(scale))?;
                candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v.contiguous()?)?
            }
        };
        let y = y.transpose(1, 2)?.reshape((batch, tokens, WIDTH))?;
        self.0.linear(&y, at + 2)
    }

    fn plus(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        match self.0.side {
            Side::Ours => ops::add(x, y),
            Side::Candle => x + y,
        }
    }

    /// What `[batch, tokens, 256]` becomes.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = x.clone();
        for first in (0..LAYERS * VARS).step_by(VARS) {
            x = self.plus(&x, &self.attend(&self.norm(&x, first)?, first + 2)?)?;
            let hidden = self.0.linear(&self.norm(&x, first + 6)?, first + 8)?;
            let hidden = if self.0.side == Side::Ours {
                ops::gelu(&hidden)?
            } else {
                hidden.gelu()?
            };
            x = self.plus(&x, &self.0.linear(&hidden, first + 10)?)?;
        }
        Ok(x)
    }

    fn loss(&self, x: &Tensor) -> Result<Tensor> {
        self.forward(x)?.sqr()?.mean_all()
    }

    pub(crate) fn backward(&self, x: &Tensor) -> Result<candle_core::backprop::GradStore> {
        self.loss(x)?.backward()
    }

    pub(crate) fn step(&mut self, x: &Tensor) -> Result<()> {
        let loss = self.loss(x)?;
        self.0.step(&loss)
    }
}

/// Whole numbers from 0 to 9.
pub(crate) fn labels(count: usize) -> Result<Tensor> {
    Tensor::rand(0f32, 9.99f32, count, &Device::Cpu)?.to_dtype(DType::U32)
}

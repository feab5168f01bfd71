use candle_nn::{Conv2d, Conv2dConfig, Linear};

/// Two convolutions and two linear layers: 8 x 8 pixels in, a score for each of the ten digits out.
#[derive(Debug, Clone)]
pub struct DigitsNet {
    conv1: Conv2d,
    conv2: Conv2d,
    hidden: Linear,
    scores: Linear,
}

impl DigitsNet {
    /// The network whose weights `vars` makes or holds.
    pub fn new(vars: VarBuilder<'static>) -> candle_core::Result<Self> {
        let same_size = Conv2dConfig { padding: 1, ..Conv2dConfig::default() };
        Ok(Self {
            conv1: candle_nn::conv2d(1, 16, 3, same_size, vars.pp("conv1"))?,
            conv2: candle_nn::conv2d(16, 32, 3, same_size, vars.pp("conv2"))?,
            hidden: candle_nn::linear(32 * 4 * 4, 64, vars.pp("hidden"))?,
            scores: candle_nn::linear(64, 10, vars.pp("scores"))?,
        })
    }
}

impl Module for DigitsNet {
    fn forward(&self, pixels: &Tensor) -> candle_core::Result<Tensor> {
        let images: Tensor = (pixels / 16.0)?.reshape(((), 1, 8, 8))?;
        let edges: Tensor = self.conv1.forward(&images)?.relu()?;
        let shapes: Tensor = self.conv2.forward(&edges)?.relu()?.max_pool2d(2)?;
        let hidden: Tensor = self.hidden.forward(&shapes.flatten_from(1)?)?.relu()?;
        self.scores.forward(&hidden)
    }
}

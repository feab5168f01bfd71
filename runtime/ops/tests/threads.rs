//! Results that don't depend on how many threads there are.

#![expect(clippy::unwrap_used, reason = "a test says why by its panic")]

mod support;

use alephlab_ops as ops;
use candle_core::{Result, Tensor, Var};
use support::{Random, narrow, numbers};

/// Runs `work` with one, two and five threads, and asserts that all of its numbers are the same.
fn assert_same(what: &str, work: impl Fn() -> Result<Vec<Tensor>> + Sync) {
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let results = pool.install(|| work().unwrap());
        results
            .iter()
            .flat_map(numbers)
            .map(f64::to_bits)
            .collect::<Vec<u64>>()
    };
    let one = with(1);
    assert!(!one.is_empty());
    for threads in [2, 5] {
        assert_eq!(one, with(threads), "{what} with {threads} threads");
    }
}

fn with_gradients(inputs: &[Tensor], op: impl Fn(&[Tensor]) -> Result<Tensor>) -> Result<Vec<Tensor>> {
    let vars: Vec<Var> = inputs.iter().map(Var::from_tensor).collect::<Result<_>>()?;
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let result = op(&tensors)?;
    let grads = result.sqr()?.sum_all()?.backward()?;
    Ok(vars
        .iter()
        .filter_map(|var| grads.get(var).cloned())
        .chain([result])
        .collect())
}

#[test]
fn threads_change_no_bit() {
    let mut random = Random(11);
    let x = narrow(&random.tensor(&[700, 129], 3.0));
    let [weight, bias] = [(); 2].map(|()| narrow(&random.tensor(&[129], 1.0)));
    let labels: Vec<u32> = (0..700)
        .map(|_| u32::try_from(random.between(0, 128)).unwrap())
        .collect();
    let labels = Tensor::from_vec(labels, 700, x.device()).unwrap();
    assert_same("gelu", || {
        with_gradients(std::slice::from_ref(&x), |x| ops::gelu(&x[0]))
    });
    assert_same("softmax", || {
        with_gradients(std::slice::from_ref(&x), |x| ops::softmax_last_dim(&x[0]))
    });
    assert_same("layer_norm", || {
        with_gradients(&[x.clone(), weight.clone(), bias.clone()], |x| {
            ops::layer_norm(&x[0], &x[1], &x[2], 1e-5)
        })
    });
    assert_same("cross_entropy", || {
        with_gradients(std::slice::from_ref(&x), |x| ops::cross_entropy(&x[0], &labels))
    });
    let (image, kernel) = (
        narrow(&random.tensor(&[19, 3, 12, 12], 1.0)),
        narrow(&random.tensor(&[5, 3, 3, 3], 1.0)),
    );
    let how = ops::Conv2d {
        padding: 1,
        ..ops::Conv2d::default()
    };
    assert_same("conv2d", || {
        with_gradients(&[image.clone(), kernel.clone()], |x| {
            ops::conv2d(&x[0], &x[1], None, &how)
        })
    });
    // Sizes at which the product goes another way when it is cut.
    for [rows, inner, outputs] in [[128, 784, 10], [150, 512, 10], [129, 64, 64], [1_100, 300, 70]] {
        let x = narrow(&random.tensor(&[rows, inner], 1.0));
        let weight = narrow(&random.tensor(&[outputs, inner], 1.0));
        assert_same("linear", || {
            with_gradients(&[x.clone(), weight.clone()], |x| ops::linear(&x[0], &x[1], None))
        });
        let weight = narrow(&random.tensor(&[inner, outputs], 1.0));
        assert_same("linear, turned", || {
            let inputs = [x.clone(), weight.clone()];
            with_gradients(&inputs, |x| ops::linear_turned(&x[0], &x[1], None))
        });
    }
    // One sample, whose products all threads share.
    let (image, kernel) = (
        narrow(&random.tensor(&[1, 32, 60, 60], 1.0)),
        narrow(&random.tensor(&[64, 32, 3, 3], 1.0)),
    );
    assert_same("conv2d of one sample", || {
        with_gradients(&[image.clone(), kernel.clone()], |x| {
            ops::conv2d(&x[0], &x[1], None, &how)
        })
    });
    let heads = [(); 3].map(|()| narrow(&random.tensor(&[2, 3, 150, 16], 1.0)));
    assert_same("attention", || {
        with_gradients(&heads, |x| {
            ops::attention(&x[0], &x[1], &x[2], &ops::Mask::Causal, 0.25)
        })
    });
    assert_same("dropout", || {
        with_gradients(std::slice::from_ref(&x), |x| ops::dropout(&x[0], 0.4, 3))
    });
    assert_same("sum_all", || {
        with_gradients(std::slice::from_ref(&x), |x| ops::sum_all(&x[0]))
    });
    let images = narrow(&random.tensor(&[9, 5, 40, 40], 1.0));
    let [weight, bias] = [(); 2].map(|()| narrow(&random.tensor(&[5], 1.0)));
    assert_same("batch_norm", || {
        let inputs = [images.clone(), weight.clone(), bias.clone()];
        with_gradients(&inputs, |x| Ok(ops::batch_norm(&x[0], &x[1], &x[2], 1e-5)?.y))
    });
    let [weight, bias] = [&[300, 129][..], &[300]].map(|dims| narrow(&random.tensor(dims, 1.0)));
    assert_same("linear", || {
        let inputs = [x.clone(), weight.clone(), bias.clone()];
        with_gradients(&inputs, |x| ops::linear(&x[0], &x[1], Some(&x[2])))
    });
}

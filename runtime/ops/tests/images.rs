//! Convolution, pooling, copies and attention against candle's own ops in `f64`, and their gradients against differences.

#![expect(clippy::unwrap_used, reason = "a test says why by its panic")]

mod support;

use alephlab_ops::{self as ops, Conv2d, Mask};
use candle_core::{D, DType, Device, Result, Tensor, Var};
use support::{Random, assert_close, check, narrow, numbers};

fn theirs(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, how: &Conv2d) -> Result<Tensor> {
    let y = x.conv2d(weight, how.padding, how.stride, how.dilation, how.groups)?;
    match bias {
        Some(bias) => y.broadcast_add(&bias.reshape((1, bias.elem_count(), 1, 1))?),
        None => Ok(y),
    }
}

#[test]
fn conv2d_of_random_shapes_gives_what_candle_does_and_gradients_those_of_differences() {
    let mut random = Random(21);
    for round in 0..40 {
        let how = Conv2d {
            stride: random.between(1, 3),
            padding: random.between(0, 3),
            dilation: random.between(1, 2),
            groups: 1,
        };
        let (down, across) = (random.between(1, 3), random.between(1, 4));
        let least = |kernel: usize| {
            (how.dilation * (kernel - 1) + 1)
                .saturating_sub(2 * how.padding)
                .max(1)
        };
        let (height, width) = (
            least(down) + random.between(0, 3),
            least(across) + random.between(0, 4),
        );
        let (batch, inputs, outputs) = (random.between(1, 3), random.between(1, 3), random.between(1, 3));
        let tensors = [
            random.tensor(&[batch, inputs, height, width], 1.0),
            random.tensor(&[outputs, inputs, down, across], 1.0),
            random.tensor(&[outputs], 1.0),
        ];
        let what = format!(
            "round {round}: {how:?} of {:?} by {:?}",
            tensors[0].dims(),
            tensors[1].dims()
        );
        let ours = |x: &[Tensor]| ops::conv2d(&x[0], &x[1], Some(&x[2]), &how);
        check(&what, &tensors, ours, |x| theirs(&x[0], &x[1], Some(&x[2]), &how));
        if round < 8 {
            let ours = |x: &[Tensor]| ops::conv2d(&x[0], &x[1], None, &how);
            check(&what, &tensors[..2], ours, |x| theirs(&x[0], &x[1], None, &how));
        }
    }
}

/// Windows by steps of one to no more channels: both gradients are made by one layout of patches.
#[test]
fn conv2d_whose_gradients_share_patches_gives_what_candle_does() {
    let mut random = Random(29);
    for round in 0..24 {
        let (kernel, dilation) = (random.between(2, 3), random.between(1, 2));
        let how = Conv2d {
            padding: random.between(0, dilation * (kernel - 1)),
            dilation,
            ..Conv2d::default()
        };
        let least = (dilation * (kernel - 1) + 1)
            .saturating_sub(2 * how.padding)
            .max(1);
        let (height, width) = (least + random.between(0, 5), least + random.between(0, 6));
        let tensors = [
            random.tensor(&[2, 4, height, width], 1.0),
            random.tensor(&[2, 4, kernel, kernel], 1.0),
            random.tensor(&[2], 1.0),
        ];
        let what = format!("round {round}: {how:?} of {height} x {width} by {kernel}");
        let ours = |x: &[Tensor]| ops::conv2d(&x[0], &x[1], Some(&x[2]), &how);
        check(&what, &tensors, ours, |x| theirs(&x[0], &x[1], Some(&x[2]), &how));
    }
}

#[test]
fn conv2d_of_one_by_one_groups_and_empty_batches_give_what_candle_does() {
    let mut random = Random(22);
    let plain = Conv2d::default();
    let tensors = [
        random.tensor(&[2, 3, 4, 5], 1.0),
        random.tensor(&[2, 3, 1, 1], 1.0),
        random.tensor(&[2], 1.0),
    ];
    let ours = |x: &[Tensor]| ops::conv2d(&x[0], &x[1], Some(&x[2]), &plain);
    check("1x1", &tensors, ours, |x| {
        theirs(&x[0], &x[1], Some(&x[2]), &plain)
    });

    let how = Conv2d {
        groups: 2,
        padding: 1,
        ..plain
    };
    let (x, weight) = (
        random.tensor(&[2, 4, 5, 5], 1.0),
        random.tensor(&[6, 2, 3, 3], 1.0),
    );
    let got = ops::conv2d(&narrow(&x), &narrow(&weight), None, &how).unwrap();
    assert_close(&got, &theirs(&x, &weight, None, &how).unwrap(), 3e-6, "groups");

    let empty = Tensor::zeros((0, 3, 4, 5), DType::F32, &Device::Cpu).unwrap();
    let got = ops::conv2d(&empty, &narrow(&tensors[1]), None, &plain).unwrap();
    assert_eq!(got.dims(), [0, 2, 4, 5]);
}

/// More patches than a tile holds, and more samples than groups.
#[test]
fn conv2d_of_large_images_goes_by_tiles() {
    for [inputs, outputs] in [[16, 8], [8, 16], [3, 50]] {
        large_images(inputs, outputs);
    }
}

fn large_images(inputs: usize, outputs: usize) {
    let mut random = Random(23);
    let how = Conv2d {
        padding: 1,
        ..Conv2d::default()
    };
    let (x, weight) = (
        random.tensor(&[17, inputs, 40, 30], 1.0),
        random.tensor(&[outputs, inputs, 3, 3], 0.1),
    );
    let vars = [&x, &weight].map(|x| Var::from_tensor(&narrow(x)).unwrap());
    let wide = [&x, &weight].map(|x| Var::from_tensor(x).unwrap());
    let got = ops::conv2d(&vars[0], &vars[1], None, &how).unwrap();
    let want = theirs(&wide[0], &wide[1], None, &how).unwrap();
    assert_close(&got, &want, 1e-5, "result");
    let (got, want) = (
        got.sqr().unwrap().sum_all().unwrap(),
        want.sqr().unwrap().sum_all().unwrap(),
    );
    let (got, want) = (got.backward().unwrap(), want.backward().unwrap());
    for (ours, theirs) in vars.iter().zip(&wide) {
        let scale = numbers(want.get(theirs).unwrap())
            .iter()
            .fold(0f64, |most, x| most.max(x.abs()));
        let [got, want] =
            [got.get(ours), want.get(theirs)].map(|grad| (numbers_over(grad.unwrap(), scale)).unwrap());
        assert_close(&got, &want, 1e-5, "gradient");
    }
}

fn numbers_over(x: &Tensor, scale: f64) -> Result<Tensor> {
    x.to_dtype(DType::F64)? / scale
}

#[test]
fn an_image_that_is_no_variable_gets_no_gradient() {
    let mut random = Random(24);
    let x = narrow(&random.tensor(&[2, 1, 5, 5], 1.0));
    let weight = Var::from_tensor(&narrow(&random.tensor(&[2, 1, 3, 3], 1.0))).unwrap();
    let grads = ops::conv2d(&x, &weight, None, &Conv2d::default())
        .unwrap()
        .sum_all()
        .unwrap()
        .backward()
        .unwrap();
    assert!(grads.get(&x).is_none());
    assert!(grads.get(&weight).is_some());
}

/// Numbers that all differ, so that a window has one largest.
fn distinct(random: &mut Random, dims: &[usize]) -> Tensor {
    let count: usize = dims.iter().product();
    let mut numbers: Vec<f64> = (0..count).map(|n| n as f64 / 8.0).collect();
    for index in (1..count).rev() {
        numbers.swap(index, random.between(0, index));
    }
    Tensor::from_vec(numbers, dims, &Device::Cpu).unwrap()
}

#[test]
fn pools_give_what_candle_does_and_gradients_those_of_differences() {
    let mut random = Random(25);
    for (dims, kernel, stride) in [
        ([2, 3, 4, 6], 2, 2),
        ([1, 2, 5, 7], 2, 2),
        ([1, 1, 7, 6], 3, 2),
        ([2, 1, 5, 5], 2, 1),
        ([1, 1, 3, 3], 3, 3),
        ([1, 1, 8, 5], 2, 3),
    ] {
        let x = [distinct(&mut random, &dims)];
        let what = format!("{dims:?} by {kernel}, {stride}");
        check(
            &what,
            &x,
            |x| ops::max_pool2d(&x[0], kernel, stride),
            |x| x[0].max_pool2d_with_stride(kernel, stride),
        );
        check(
            &what,
            &x,
            |x| ops::avg_pool2d(&x[0], kernel, stride),
            |x| x[0].avg_pool2d_with_stride(kernel, stride),
        );
    }
}

#[test]
fn max_pool_keeps_what_is_no_number() {
    let x = Tensor::new(&[[[[1f32, f32::NAN], [3.0, 2.0]]]], &Device::Cpu).unwrap();
    assert!(numbers(&ops::max_pool2d(&x, 2, 2).unwrap())[0].is_nan());
}

#[test]
fn copies_of_strided_tensors_of_every_dtype_read_as_they_did() {
    let mut random = Random(26);
    for round in 0..60 {
        let rank = random.between(1, 5);
        let dims: Vec<usize> = (0..rank)
            .map(|_| [0, 1, 2, 3, 16, 17, 35][random.between(usize::from(round % 9 > 0), 6 - rank.min(3))])
            .collect();
        let mut order: Vec<usize> = (0..rank).collect();
        for index in (1..rank).rev() {
            order.swap(index, random.between(0, index));
        }
        let mut x = random.tensor(&dims, 50.0).permute(order.clone()).unwrap();
        if round % 3 == 0 && x.dims()[0] > 1 {
            x = x.narrow(0, 1, x.dims()[0] - 1).unwrap();
        }
        if round % 5 == 0 {
            x = x.unsqueeze(1).unwrap();
            let wider: Vec<usize> = x
                .dims()
                .iter()
                .enumerate()
                .map(|(at, size)| if at == 1 { 3 } else { *size })
                .collect();
            x = x.broadcast_as(wider).unwrap();
        }
        for dtype in [
            DType::F32,
            DType::F64,
            DType::BF16,
            DType::F16,
            DType::I64,
            DType::U32,
            DType::U8,
        ] {
            // Cast as one row, then turned in the same way.
            let cast = Tensor::from_vec(numbers(&x), x.shape(), &Device::Cpu)
                .unwrap()
                .to_dtype(dtype)
                .unwrap();
            let turned = cast.transpose(0, D::Minus1).unwrap();
            let got = ops::contiguous(&turned).unwrap();
            assert!(got.is_contiguous());
            assert_eq!(
                numbers(&got),
                numbers(&turned.copy().unwrap()),
                "{dims:?} {order:?} {dtype:?}"
            );
        }
        assert_eq!(
            numbers(&ops::contiguous(&x).unwrap()),
            numbers(&x),
            "{dims:?} {order:?}"
        );
    }
}

#[test]
fn large_transposes_read_as_they_did_and_their_gradient_goes_back() {
    let mut random = Random(27);
    for dims in [[513, 770], [16, 2000], [3000, 5], [1000, 1000]] {
        let x = narrow(&random.tensor(&dims, 1.0));
        let got = ops::transpose_copy(&x, 0, 1).unwrap();
        assert_eq!(numbers(&got), numbers(&x.t().unwrap()), "{dims:?}");
    }
    check(
        "transpose",
        &[random.tensor(&[2, 3, 4], 1.0)],
        |x| ops::transpose_copy(&x[0], 0, 2),
        |x| x[0].transpose(0, 2),
    );
}

fn exact_attention(x: &[Tensor], mask: Option<&Tensor>, scale: f64) -> Result<Tensor> {
    let scores = (x[0].contiguous()?.matmul(&x[1].transpose(2, 3)?.contiguous()?)? * scale)?;
    let scores = match mask {
        Some(mask) => scores.broadcast_add(mask)?,
        None => scores,
    };
    candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&x[2].contiguous()?)
}

#[test]
fn attention_gives_what_its_formula_does() {
    let mut random = Random(28);
    let scale = 0.5f32;
    for [batch, heads, queries, keys, size, value] in [
        [1, 1, 1, 1, 1, 1],
        [2, 2, 3, 5, 4, 3],
        [1, 2, 4, 4, 8, 8],
        [1, 1, 70, 70, 2, 1],
        [2, 1, 5, 5, 3, 2],
    ] {
        let x = [
            random.tensor(&[batch, heads, queries, size], 1.0),
            random.tensor(&[batch, heads, keys, size], 1.0),
            random.tensor(&[batch, heads, keys, value], 1.0),
        ];
        let what = format!("{batch} {heads} {queries} {keys} {size} {value}");
        let ours = |x: &[Tensor]| ops::attention(&x[0], &x[1], &x[2], &Mask::None, scale);
        check(&what, &x, ours, |x| exact_attention(x, None, 0.5));
        let added = random.tensor(&[batch, 1, queries, keys], 2.0);
        let mask = Mask::Added(narrow(&added));
        let ours = |x: &[Tensor]| ops::attention(&x[0], &x[1], &x[2], &mask, scale);
        check(&format!("{what} added"), &x, ours, |x| {
            exact_attention(x, Some(&added), 0.5)
        });
        let shut: Vec<f64> = (0..queries * keys)
            .map(|at| {
                if at % keys <= at / keys + keys - queries {
                    0.0
                } else {
                    f64::NEG_INFINITY
                }
            })
            .collect();
        let shut = Tensor::from_vec(shut, (queries, keys), &Device::Cpu).unwrap();
        let ours = |x: &[Tensor]| ops::attention(&x[0], &x[1], &x[2], &Mask::Causal, scale);
        check(&format!("{what} causal"), &x, ours, |x| {
            exact_attention(x, Some(&shut), 0.5)
        });
        let composed = ops::attention(&x[0], &x[1], &x[2], &Mask::Causal, scale).unwrap();
        assert_close(
            &composed,
            &exact_attention(&x, Some(&shut), 0.5).unwrap(),
            1e-9,
            "f64",
        );
    }
}

#[test]
fn attention_takes_heads_as_they_lie() {
    let x = Random(29).tensor(&[2, 5, 3 * 2 * 4], 1.0);
    let heads = |x: &Tensor, at: usize| x.narrow(2, at * 8, 8)?.reshape((2, 5, 2, 4))?.transpose(1, 2);
    let ours = |x: &[Tensor]| {
        ops::attention(
            &heads(&x[0], 0)?,
            &heads(&x[0], 1)?,
            &heads(&x[0], 2)?,
            &Mask::Causal,
            0.5,
        )
    };
    let exact = |x: &[Tensor]| {
        ops::attention(
            &heads(&x[0], 0)?,
            &heads(&x[0], 1)?,
            &heads(&x[0], 2)?,
            &Mask::Causal,
            0.5,
        )
    };
    check("heads", &[x], ours, exact);
}

#[test]
fn what_does_not_fit_is_refused_with_its_shapes() {
    let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
    let (x, weight) = (zeros(&[1, 3, 4, 4]), zeros(&[2, 3, 5, 5]));
    let plain = Conv2d::default();
    let no_step = Conv2d { stride: 0, ..plain };
    for (got, says) in [
        (
            ops::conv2d(&x, &weight, None, &plain),
            "larger than the padded images",
        ),
        (
            ops::conv2d(&x, &zeros(&[2, 2, 3, 3]), None, &plain),
            "channels don't fit",
        ),
        (
            ops::conv2d(&x, &zeros(&[2, 3, 3, 3]), Some(&zeros(&[3])), &plain),
            "a bias of as many",
        ),
        (
            ops::conv2d(&x, &zeros(&[2, 3, 3, 3]), None, &no_step),
            "1 or more",
        ),
        (
            ops::conv2d(&zeros(&[3, 4, 4]), &weight, None, &plain),
            "four dimensions",
        ),
        (ops::max_pool2d(&x, 5, 1), "doesn't fit"),
        (
            ops::attention(&x, &x, &zeros(&[1, 3, 5, 4]), &Mask::None, 1.0),
            "[1, 3, 5, 4]",
        ),
    ] {
        let error = got.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

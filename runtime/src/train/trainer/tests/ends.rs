//! How trainings end: early, by a callback, by an error. Interrupts are those of a process: `tests/training`.

use super::*;

#[test]
fn stops_early_and_puts_the_best_weights_back() {
    let vars = VarMap::new();
    let net = Net::new(&vars, 1, DType::F32);
    // Held out with other labels: the better it learns, the worse it is there.
    let test = corners(24, 2);
    let wrong = Examples::new(test.inputs.clone(), test.labels.affine(1.0, 1.0).unwrap()).unwrap();
    let wrong = Examples::new(
        wrong.inputs,
        wrong
            .labels
            .broadcast_minimum(&Tensor::new(3_u32, &Device::Cpu).unwrap())
            .unwrap(),
    )
    .unwrap();
    let after_first = Arc::new(Mutex::new(vec![]));
    let (kept, seen) = (after_first.clone(), vars.clone());
    let trainer = Trainer::new(&vars)
        .epochs(30)
        .batch_size(10)
        .learning_rate(0.1)
        .schedule(Schedule::constant())
        .early_stopping(EarlyStopping::after(3))
        .on_epoch(move |report| {
            if report.epoch == 0 {
                *kept.lock().unwrap() = bits(&shown(&seen));
            }
            Flow::Go
        });
    let history = trainer.fit(&net, &corners(50, 1), &wrong).unwrap();
    assert_eq!(
        (history.train_loss.len(), history.best_epoch),
        (4, Some(0)),
        "{history:?}"
    );
    assert_eq!(
        history.stopped.as_deref(),
        Some("it got no better in 3 measurements")
    );
    assert_eq!(bits(&shown(&vars)), *after_first.lock().unwrap());
    assert_eq!(bits(&trainer.best_weights().unwrap()), bits(&shown(&vars)));
    assert_ne!(bits(&trainer.learned_weights().unwrap()), bits(&shown(&vars)));
}

#[test]
fn callbacks_see_every_step_and_epoch_and_end_it() {
    let steps = Arc::new(Mutex::new(vec![]));
    let epochs = Arc::new(Mutex::new(vec![]));
    let (of_steps, of_epochs) = (steps.clone(), epochs.clone());
    let vars = VarMap::new();
    let trainer = Trainer::new(&vars)
        .epochs(9)
        .batch_size(20)
        .validate_every(2)
        .on_step(move |report| {
            of_steps.lock().unwrap().push(*report);
            Flow::Go
        })
        .on_epoch(move |report| {
            of_epochs.lock().unwrap().push(report.clone());
            if report.epoch == 3 { Flow::Stop } else { Flow::Go }
        });
    let net = Net::new(&vars, 1, DType::F32);
    let history = trainer.fit(&net, &corners(50, 1), &corners(24, 2)).unwrap();
    let steps = steps.lock().unwrap();
    assert_eq!((steps.len(), steps[0].step, steps[0].steps), (12, 1, Some(27)));
    assert_eq!(steps[11].epoch, 3);
    let losses: Vec<f64> = steps.iter().map(|step| step.loss.unwrap()).collect();
    assert_eq!(losses, history.step_loss);
    let epochs = epochs.lock().unwrap();
    assert_eq!(
        epochs.iter().map(|epoch| epoch.epoch).collect::<Vec<_>>(),
        [0, 1, 2, 3]
    );
    assert!(epochs[0].test_loss.is_none() && epochs[1].test_loss.is_some());
    assert_eq!(epochs[1].metrics[0].0, "accuracy");
    assert_eq!(history.measured_epochs, [1, 3]);
    assert_eq!(
        history.stopped.as_deref(),
        Some("a callback ended it after epoch 4")
    );
}

#[test]
fn a_loss_that_is_no_number_leaves_the_weights_as_they_were() {
    let vars = VarMap::new();
    let net = Net::new(&vars, 1, DType::F32);
    let calls = Mutex::new(0);
    let before = Arc::new(Mutex::new(vec![]));
    let (kept, seen) = (before.clone(), vars.clone());
    let trainer = Trainer::new(&vars).batch_size(10).loss(move |outputs, labels| {
        let mut calls = calls.lock().unwrap();
        *calls += 1;
        if *calls == 4 {
            *kept.lock().unwrap() = bits(&shown(&seen));
            return losses::cross_entropy(outputs, labels)? * f64::NAN;
        }
        losses::cross_entropy(outputs, labels)
    });
    let error = trainer.fit_all(&net, &corners(50, 1)).unwrap_err().to_string();
    assert!(error.contains("the loss is NaN in epoch 1"), "{error}");
    assert_eq!(bits(&shown(&vars)), *before.lock().unwrap());
    assert_eq!(bits(&trainer.learned_weights().unwrap()), bits(&shown(&vars)));
    // Read later, it is found all the same.
    let vars = VarMap::new();
    let net = Net::new(&vars, 1, DType::F32);
    let late = Trainer::new(&vars)
        .read_every(7)
        .loss(|outputs, _| outputs.sum_all()? * f64::INFINITY);
    assert!(
        late.fit_all(&net, &corners(50, 1))
            .unwrap_err()
            .to_string()
            .contains("in epoch 1")
    );
}

#[test]
fn losses_that_are_read_later_are_the_same() {
    let run = |every| {
        let vars = VarMap::new();
        let net = Net::new(&vars, 1, DType::F32);
        let trainer = Trainer::new(&vars)
            .epochs(3)
            .batch_size(10)
            .clip_norm(1.0)
            .read_every(every);
        measured(&trainer.fit(&net, &corners(50, 1), &corners(24, 2)).unwrap())
    };
    assert_eq!(run(1), run(4));
    assert_eq!(run(1).gradient_norm.len(), 15);
}

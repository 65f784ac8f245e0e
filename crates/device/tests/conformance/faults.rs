use lighterage_device::{Device, Error, Host, HostConfig, Purpose, Result, StreamKind};

use crate::{
    AddOne, CAPACITY, Ends, SEEDS, assert_empty, chunk_of, floats_at, host, launch, seeded, threaded,
};

/// A program that makes every driver call, some of them while other work is pending. It gives up at the first error, like any program with `?`.
fn program(device: &Device<Host>) -> Result<()> {
    let page = device.info().page_bytes;
    let (weights, activations) = (chunk_of(device, 1)?, chunk_of(device, 2)?);
    let (range, window) = (device.reserve(3 * page)?, device.reserve(page)?);
    range.map(0, &weights)?;
    range.map(page, &activations)?;
    range.set_access(0, 3 * page)?;
    window.map(0, &weights)?;
    window.set_access(0, page)?;
    let pinned = device.pin(16)?;
    let file = [1_f32; 4];
    let grant = device.host_ledger().grant(Purpose::Pinned, 16)?;
    // SAFETY: `file` outlives the registration.
    let _registered = unsafe { device.register(file.as_ptr().cast(), grant) }?;
    let source = std::ptr::with_exposed_provenance::<u8>(usize::try_from(pinned.address().0).unwrap());
    let (compute, copy) = (device.stream(StreamKind::Compute)?, device.stream(StreamKind::Copy)?);
    let (filled, used) = (device.event()?, device.event()?);
    let at = |index: u64| floats_at(range.address().offset(index * page), &compute);
    compute.fill(at(2), 0)?;
    for _ in 0..3 {
        copy.wait(&used)?;
        // SAFETY: the target is mapped and the source pinned until the streams, dropped first, have done their work.
        unsafe { copy.copy_from_host(window.address(), source, 16) }?;
        copy.record(&filled)?;
        compute.wait(&filled)?;
        launch::<AddOne, _>(&compute, &Ends::new(at(1), at(0)))?;
        compute.record(&used)?;
        compute.copy(at(2), at(1))?;
    }
    let flags = device.flags(2)?;
    let mut copies = copy.capture(|| {
        // SAFETY: as above.
        unsafe { copy.copy_from_host(window.address(), source, 16) }?;
        copy.raise(&flags, 0)?;
        copy.take(&flags, 1)
    })?;
    let mut launches = compute.capture(|| {
        compute.take(&flags, 0)?;
        launch::<AddOne, _>(&compute, &Ends::new(at(1), at(0)))?;
        compute.raise(&flags, 1)
    })?;
    for _ in 0..2 {
        // SAFETY: what is in them is mapped until the streams have done their work.
        unsafe { copy.replay(&mut copies) }?;
        // SAFETY: as above.
        unsafe { compute.replay(&mut launches) }.inspect_err(|error| flags.give_up(&error.to_string()))?;
    }
    filled.is_complete()?;
    compute.upload(at(1), &[1_f32; 4])?;
    used.synchronize()?;
    assert_eq!(compute.read::<f32>(at(2))?, Some(vec![1.0; 4]));
    copy.synchronize()?;
    window.unmap(0, page)
}

fn is_injected(error: &Error, fail_call: u64) -> bool {
    match error {
        Error::OutOfMemory { capacity, .. } => *capacity == CAPACITY,
        Error::Driver { message, .. } => message == "injected failure",
        Error::Stream(message) => message.contains("injected failure"),
        other => panic!("call {fail_call}: {other}"),
    }
}

/// Runs the program with each of its calls failing in turn.
fn check(config: &HostConfig) {
    let sound = host(*config);
    program(&sound).unwrap();
    sound.take_deferred().unwrap();
    let calls = sound.backend().driver_calls();
    assert!(calls > 50, "{calls} calls");
    for fail_call in 0..calls {
        let device = host(HostConfig { fail_call: Some(fail_call), ..*config });
        // Errors in `Drop` are deferred, and the next call returns them.
        let error = program(&device).and_then(|()| device.take_deferred()).expect_err("a call failed");
        assert!(is_injected(&error, fail_call), "call {fail_call}: {error}");
        assert_empty(&device);
    }
    let last = host(HostConfig { fail_call: Some(calls), ..*config });
    program(&last).and_then(|()| last.take_deferred()).expect("the failing call is never made");
}

#[test]
fn any_failed_call_is_reported_and_everything_is_released() {
    threaded().iter().for_each(check);
}

#[test]
fn any_failed_call_is_reported_and_everything_is_released_under_seeds() {
    (0..SEEDS).map(seeded).for_each(|config| check(&config));
}

use lighterage_device::{Address, Device, Error, Host, HostConfig, Purpose, StreamKind, Usage};

use crate::{CAPACITY, Check, Inspect, Memory, chunk, everywhere, floats_at, host, on_hosts};

struct RawRules;

impl Check for RawRules {
    /// Backends check the rules themselves, whatever the shells checked before: these calls break them on purpose.
    fn check<B: Inspect>(&self, device: &Device<B>) {
        let raw = device.backend();
        let page = raw.info().page_bytes;
        for bytes in [0, 1, page - 1, page + 1] {
            refused("reserve", "not a multiple of the page", raw.reserve(bytes));
            refused("create", "not a multiple of the page", raw.create(bytes));
        }
        let at = raw.reserve(4 * page).unwrap();
        let (one, two) = (raw.create(page).unwrap(), raw.create(2 * page).unwrap());
        // SAFETY: the calls that are right keep the rules; the backend refuses the others before it does anything.
        let map = |offset: u64, chunk, bytes| unsafe { raw.map(at.offset(offset), chunk, bytes) };
        // SAFETY: as above.
        let unmap = |offset: u64, bytes| unsafe { raw.unmap(at.offset(offset), bytes) };
        // SAFETY: as above.
        let access = |offset: u64, bytes| unsafe { raw.set_access(at.offset(offset), bytes) };
        // SAFETY: as above.
        let unreserve = |address, bytes| unsafe { raw.unreserve(address, bytes) };
        // SAFETY: as above.
        let destroy = |chunk| unsafe { raw.destroy(chunk) };

        refused("map", "not a multiple of the page", map(1, one, page));
        refused("map", "outside of a reservation", map(3 * page, two, 2 * page));
        refused("map", "outside of a reservation", map(4 * page, one, page));
        refused("map", "not the size of the chunk", map(0, two, page));
        map(0, two, 2 * page).unwrap();
        refused("map", "already mapped", map(page, one, page));
        map(2 * page, one, page).unwrap();
        refused("set_access", "not a range of whole maps", access(0, page));
        refused("set_access", "not a range of whole maps", access(2 * page, 2 * page));
        refused("unmap", "not a range of whole maps", unmap(page, 2 * page));
        refused("unmap", "not a range of whole maps", unmap(3 * page, page));
        access(0, 3 * page).unwrap();
        refused("unreserve", "still mapped", unreserve(at, 4 * page));
        unmap(0, 3 * page).unwrap();
        refused("unmap", "not a range of whole maps", unmap(0, page));
        refused("unreserve", "not a reservation", unreserve(at, page));
        unreserve(at, 4 * page).unwrap();
        refused("unreserve", "not a reservation", unreserve(at, 4 * page));
        destroy(one).unwrap();
        destroy(two).unwrap();
        refused("destroy", "no such chunk", destroy(one));
        refused("map", "outside of a reservation", map(0, one, page));
        // SAFETY: refused: nothing was pinned there.
        refused("unpin", "not pinned memory", unsafe { raw.unpin(Address(page), 8) });
    }
}

fn refused<T: std::fmt::Debug>(name: &str, why: &str, outcome: lighterage_device::Result<T>) {
    match outcome {
        Err(Error::Range { call, reason, .. }) => assert_eq!((call, reason), (name, why)),
        other => panic!("{name}: {why} expected, got {other:?}"),
    }
}

#[test]
fn backend_refuses_what_breaks_the_rules() {
    everywhere(&RawRules);
}

struct ShellRules;

impl Check for ShellRules {
    fn check<B: Inspect>(&self, device: &Device<B>) {
        let page = device.info().page_bytes;
        let range = device.reserve(2 * page + 1).unwrap();
        assert_eq!(range.bytes(), 3 * page);
        let chunk = chunk(device, 2);
        refused("map", "not a multiple of the page", range.map(1, &chunk));
        refused("map", "outside of the reservation", range.map(2 * page, &chunk));
        refused("map", "outside of the reservation", range.map(u64::MAX - page + 1, &chunk));
        range.map(page, &chunk).unwrap();
        refused("map", "already mapped", range.map(0, &chunk));
        for (offset, bytes) in
            [(0, page), (0, 3 * page), (page, page), (2 * page, page), (page, 0), (u64::MAX, 2)]
        {
            refused("set_access", "not a range of whole maps", range.set_access(offset, bytes));
            refused("unmap", "not a range of whole maps", range.unmap(offset, bytes));
        }
        assert_eq!(range.mapped_bytes(), 2 * page);
        range.unmap(page, 2 * page).unwrap();
        assert_eq!(range.mapped_bytes(), 0);
    }
}

#[test]
fn shells_refuse_what_breaks_the_rules() {
    everywhere(&ShellRules);
}

struct Destroyed;

impl Check for Destroyed {
    fn check<B: Inspect>(&self, device: &Device<B>) {
        let raw = device.backend();
        let page = raw.info().page_bytes;
        let stream = device.stream(StreamKind::Compute).unwrap();
        let (at, chunk) = (raw.reserve(2 * page).unwrap(), raw.create(page).unwrap());
        for offset in [0, page] {
            // SAFETY: two free pages of the reservation.
            unsafe { raw.map(at.offset(offset), chunk, page) }.unwrap();
        }
        // SAFETY: both are mapped.
        unsafe { raw.set_access(at, 2 * page) }.unwrap();
        stream.upload(floats_at(at, &stream), &[1_f32, 2.0, 3.0, 4.0]).unwrap();
        // SAFETY: destroyed once.
        unsafe { raw.destroy(chunk) }.unwrap();
        let free_pages = CAPACITY / page - 1;
        let too_much = (free_pages + 1) * page;
        let expected = Error::OutOfMemory { requested: too_much, capacity: CAPACITY, used: page };
        assert_eq!(raw.create(too_much), Err(expected), "a destroyed chunk counts while it is mapped");
        // SAFETY: no work is pending on the first page: nothing was queued after the upload, which is staged and waited for next.
        stream.synchronize().unwrap();
        // SAFETY: as above.
        unsafe { raw.unmap(at, page) }.unwrap();
        let left = stream.read::<f32>(floats_at(at.offset(page), &stream)).unwrap();
        assert!(
            left.is_none_or(|values| values == [1.0, 2.0, 3.0, 4.0]),
            "its bytes live until the last unmap"
        );
        // SAFETY: the read has been waited for.
        unsafe { raw.unmap(at.offset(page), page) }.unwrap();
        assert_eq!(raw.usage(), Usage { reservations: 1, ..Usage::default() });
        // SAFETY: nothing is mapped any more.
        unsafe { raw.unreserve(at, 2 * page) }.unwrap();
    }
}

#[test]
fn destroyed_chunk_lives_until_its_last_unmap() {
    everywhere(&Destroyed);
}

struct Aliases;

impl Check for Aliases {
    fn check<B: Inspect>(&self, device: &Device<B>) {
        let page = device.info().page_bytes;
        let stream = device.stream(StreamKind::Compute).unwrap();
        let (a, b) = (chunk(device, 1), chunk(device, 1));
        let (first, second) = (device.reserve(3 * page).unwrap(), device.reserve(page).unwrap());
        for (range, offset, chunk) in
            [(&first, 0, &a), (&first, page, &b), (&first, 2 * page, &a), (&second, 0, &a)]
        {
            range.map(offset, chunk).unwrap();
        }
        first.set_access(0, 3 * page).unwrap();
        second.set_access(0, page).unwrap();
        let view = |range: &lighterage_device::Reservation<B>, index| {
            floats_at(range.address().offset(index * page), &stream)
        };
        stream.upload(view(&first, 0), &[1_f32; 4]).unwrap();
        stream.upload(view(&first, 1), &[2_f32; 4]).unwrap();
        let check = |view, expected: f32| {
            let values = stream.read::<f32>(view).unwrap();
            assert!(values.is_none_or(|values| values == [expected; 4]));
        };
        check(view(&first, 2), 1.0);
        stream.upload(view(&second, 0), &[3_f32; 4]).unwrap();
        check(view(&first, 0), 3.0);
        check(view(&first, 1), 2.0);
        // Unmapped and mapped elsewhere, the bytes go with the chunk.
        stream.synchronize().unwrap();
        first.unmap(0, 2 * page).unwrap();
        first.map(0, &b).unwrap();
        first.set_access(0, page).unwrap();
        check(view(&first, 0), 2.0);
        check(view(&first, 2), 3.0);
        assert_eq!(device.ledger().granted_bytes(), 2 * page, "aliases cost nothing");
    }
}

#[test]
fn aliases_share_their_bytes() {
    everywhere(&Aliases);
}

struct Books;

impl Check for Books {
    fn check<B: Inspect>(&self, device: &Device<B>) {
        let page = device.info().page_bytes;
        let ledger = device.ledger();
        let rest = ledger.grant(Purpose::Context, CAPACITY - 2 * page).unwrap();
        let chunk = device.create(Purpose::Ring, 2 * page).unwrap();
        let before = device.backend().usage();
        assert!(matches!(device.create(Purpose::Ring, page), Err(Error::OutOfBudget(_))));
        assert_eq!(device.backend().usage(), before, "what is over the budget never exists");
        assert_eq!((ledger.free_bytes(), ledger.granted_for(Purpose::Ring)), (0, 2 * page));
        let range = device.reserve(2 * page).unwrap();
        range.map(0, &chunk).unwrap();
        drop(chunk);
        assert_eq!(ledger.granted_for(Purpose::Ring), 2 * page, "a map owns its chunk");
        range.unmap(0, 2 * page).unwrap();
        assert_eq!(ledger.granted_for(Purpose::Ring), 0);
        // A request that the backend refuses is given back.
        assert!(device.create(Purpose::Ring, page + 1).is_err());
        drop(rest);
        assert_eq!((ledger.granted_bytes(), ledger.peak_bytes()), (0, CAPACITY));

        let pinned = device.pin(12_345).unwrap();
        assert_eq!(device.host_ledger().granted_for(Purpose::Pinned), 12_345);
        assert!(matches!(device.pin(CAPACITY), Err(Error::OutOfBudget(_))));
        assert_eq!((pinned.bytes(), ledger.granted_bytes()), (12_345, 0));
    }
}

#[test]
fn ledger_is_charged_before_and_given_back_after() {
    everywhere(&Books);
}

struct Unmapped;

impl Check for Unmapped {
    fn check<B: Inspect>(&self, device: &Device<B>) {
        let page = device.info().page_bytes;
        let stream = device.stream(StreamKind::Compute).unwrap();
        let memory = Memory::new(device, 1);
        let range = device.reserve(2 * page).unwrap();
        range.map(0, &chunk(device, 1)).unwrap();
        let good = memory.floats(&stream, 0);
        for (offset, why) in [
            (0, "mapped, but without access"),
            (page - 8, "mapped, but without access"),
            (page, "not mapped"),
        ] {
            let bad = floats_at(range.address().offset(offset), &stream);
            refused("copy_from_host", why, stream.upload(bad, &[0_f32; 4]));
            refused("copy_to_host", why, stream.read::<f32>(bad));
            refused("fill", why, stream.fill(bad, 0));
            refused("copy", why, stream.copy(bad, good));
            refused("copy", why, stream.copy(good, bad));
        }
        range.set_access(0, page).unwrap();
        let half_mapped = floats_at(range.address().offset(page - 8), &stream);
        refused("fill", "not mapped", stream.fill(half_mapped, 0));
    }
}

#[test]
fn copies_outside_of_mapped_memory_are_refused() {
    everywhere(&Unmapped);
}

struct Pinned;

impl Check for Pinned {
    fn check<B: Inspect>(&self, device: &Device<B>) {
        let stream = device.stream(StreamKind::Copy).unwrap();
        let (memory, empty) = (Memory::new(device, 1), device.pin(0).unwrap());
        let pinned = device.pin(16).unwrap();
        assert_eq!(device.backend().usage().pins, 2);
        let source =
            std::ptr::with_exposed_provenance_mut::<f32>(usize::try_from(pinned.address().0).unwrap());
        if device.info().has_bytes {
            // SAFETY: 16 pinned bytes, which nothing else uses.
            let floats = unsafe { std::slice::from_raw_parts_mut(source, 4) };
            assert_eq!(floats, [0.0; 4]);
            floats.copy_from_slice(&[5.0; 4]);
        }
        let target = memory.floats(&stream, 0);
        // SAFETY: the target is mapped, and the source stays until the read below has waited.
        unsafe { stream.copy_from_host(target.address(), source.cast(), 16) }.unwrap();
        assert!(stream.read::<f32>(target).unwrap().is_none_or(|values| values == [5.0; 4]));
        drop(empty);
    }
}

#[test]
fn pinned_memory_is_exact_and_zeroed() {
    everywhere(&Pinned);
}

struct InPlace;

impl Check for InPlace {
    /// Memory of this process is charged, registered once, copied from across the borders of what is registered, and given up.
    fn check<B: Inspect>(&self, device: &Device<B>) {
        let (raw, books) = (device.backend(), device.host_ledger());
        let stream = device.stream(StreamKind::Copy).unwrap();
        let (memory, file) = (Memory::new(device, 1), vec![6_f32; 4096]);
        let half = 2 * 4096;
        let first: *const u8 = file.as_ptr().cast();
        let grant = |bytes| books.grant(Purpose::Pinned, bytes).unwrap();
        // SAFETY: `file` outlives what is registered here.
        let register = |from: u64, bytes: u64| unsafe {
            device.register(first.add(usize::try_from(from).unwrap()), grant(bytes))
        };
        let one = register(0, half).unwrap();
        refused("register", "already registered", register(0, half));
        refused("register", "already registered", register(half - 1, half));
        refused("register", "not a range of memory", register(half, 0));
        let two = register(half, half).unwrap();
        assert_eq!((raw.usage().registered, books.granted_bytes()), (2, 2 * half), "refusals cost nothing");
        let target = memory.floats(&stream, 0);
        // SAFETY: the target is mapped, and the source stays until the read below has waited.
        unsafe { stream.copy_from_host(target.address(), first, 16) }.unwrap();
        assert!(stream.read::<f32>(target).unwrap().is_none_or(|values| values == [6.0; 4]));
        drop(one);
        assert_eq!((raw.usage().registered, books.granted_bytes()), (1, half));
        drop(register(0, half).unwrap());
        drop(two);
        // SAFETY: refused: nothing is registered there.
        refused("unregister", "not registered", unsafe {
            raw.unregister(Address(first.addr() as u64), half)
        });
    }
}

#[test]
fn memory_is_registered_in_place_once() {
    everywhere(&InPlace);
}

struct Capacity;

impl Check for Capacity {
    fn check<B: Inspect>(&self, device: &Device<B>) {
        let raw = device.backend();
        let half = raw.create(CAPACITY / 2).unwrap();
        let requested = CAPACITY / 2 + raw.info().page_bytes;
        let refused = Error::OutOfMemory { requested, capacity: CAPACITY, used: CAPACITY / 2 };
        assert_eq!(raw.create(requested), Err(refused));
        let rest = raw.create(CAPACITY / 2).unwrap();
        for chunk in [half, rest] {
            // SAFETY: each is destroyed once.
            unsafe { raw.destroy(chunk) }.unwrap();
        }
        let all = raw.create(CAPACITY).unwrap();
        assert!(all > rest, "numbers are never reused");
        // SAFETY: destroyed once.
        unsafe { raw.destroy(all) }.unwrap();
    }
}

#[test]
fn capacity_is_reached_and_never_passed() {
    everywhere(&Capacity);
}

struct NoAddresses;

impl Check for NoAddresses {
    fn check<B: Inspect>(&self, device: &Device<B>) {
        let bytes = u64::MAX - device.info().page_bytes + 1;
        assert!(matches!(device.reserve(bytes), Err(Error::Driver { .. })));
        device.reserve(1 << 40).unwrap();
    }
}

#[test]
fn addresses_run_out_with_an_error() {
    everywhere(&NoAddresses);
}

#[test]
fn senseless_configurations_are_refused() {
    let base = HostConfig::default;
    let configs = [
        HostConfig { page_bytes: 0, ..base() },
        HostConfig { page_bytes: 2048, ..base() },
        HostConfig { page_bytes: 3 << 16, ..base() },
        HostConfig { link_bytes_per_second: Some(0.0), ..base() },
        HostConfig { link_bytes_per_second: Some(-1e9), ..base() },
        HostConfig { link_bytes_per_second: Some(f64::NAN), ..base() },
        HostConfig { link_bytes_per_second: Some(f64::INFINITY), ..base() },
    ];
    for config in configs {
        assert!(matches!(Host::new(config), Err(Error::NoDevice { .. })), "{config:?}");
    }
}

#[test]
fn reservations_start_at_a_page() {
    for page_bytes in [4 << 10, 64 << 10, 2 << 20, 1 << 30] {
        let device = host(HostConfig { page_bytes, ..HostConfig::default() });
        let ranges: Vec<_> = (0..5).map(|_| device.reserve(page_bytes).unwrap()).collect();
        assert!(ranges.iter().all(|range| range.address().0.is_multiple_of(page_bytes)));
    }
}

struct Poisoned;

impl Check for Poisoned {
    fn check<B: Inspect>(&self, device: &Device<B>) {
        let memory = Memory::new(device, 1);
        let stream = device.stream(StreamKind::Compute).unwrap();
        let values = stream.read::<u32>(memory.floats(&stream, 0)).unwrap().unwrap();
        let seeded = device.info().name.contains("seed");
        assert_eq!(values, [if seeded { u32::MAX } else { 0 }; 4]);
    }
}

#[test]
fn fresh_memory_is_poisoned_in_the_seeded_mode() {
    on_hosts(&Poisoned);
}

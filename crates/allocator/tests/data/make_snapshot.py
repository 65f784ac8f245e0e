"""Makes snapshot.pickle: the shape of torch.cuda.memory._snapshot() of two devices, with the cases that a reader meets. Python's own pickle writes it."""
import pathlib
import pickle


def event(action, addr, size, stream):
    return {"action": action, "addr": addr, "size": size, "stream": stream, "time_us": 1_700_000_000_000_000, "frames": [], "pool_id": (0, 0)}


def block(address, size, requested_size, state):
    return {"address": address, "size": size, "requested_size": requested_size, "state": state, "frames": []}


BASE = 0x7F00_0000_0000
snapshot = {
    "segments": [
        {
            "device": 1,
            "address": BASE,
            "total_size": 2 << 20,
            "stream": 9,
            "segment_type": "small",
            "blocks": [
                block(BASE, 1024, 0, "inactive"),
                block(BASE + 1024, 1024, 900, "active_allocated"),
                block(BASE + 2048, (2 << 20) - 2048, 0, "inactive"),
            ],
        },
        {"device": 0, "address": BASE, "total_size": 512, "stream": 0, "segment_type": "small", "blocks": [block(BASE, 512, 5, "active_allocated")]},
    ],
    "device_traces": [
        [],
        [
            event("segment_map", BASE, 2 << 20, 9),
            event("alloc", BASE + 4096, 1000, 9),
            event("free_requested", BASE + 8192, 700, 5),
            event("free_completed", BASE + 8192, 700, 5),
            event("alloc", BASE + (1 << 40), 3 << 30, 5),
            {"action": "oom", "device_free": 0, "size": 1, "stream": 9},
            event("free_requested", BASE + 4096, 1000, 9),
        ],
    ],
    "allocator_settings": {"garbage_collection_threshold": 0.0, "expandable_segments": True},
}
(pathlib.Path(__file__).parent / "snapshot.pickle").write_bytes(pickle.dumps(snapshot))

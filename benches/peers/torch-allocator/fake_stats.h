// What the stand-in for libcudart counted: calls, and bytes of its device.
#pragma once

struct FakeStats {
    unsigned long long n_malloc, n_free, n_create, n_release, n_map, n_unmap, n_access, n_sync, n_reserve;
    unsigned long long n_event_query, n_event_record, used, peak, reserved_va;
};

extern "C" void fake_get_stats(FakeStats* stats);

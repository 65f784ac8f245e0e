// Atomic operations: checked against plain accesses, free among themselves. On the host they are atomic too, since parts of a grid may run on
// several threads.
#include "block.hpp"

namespace emu {

namespace {

void check(void* address, u32 bytes, Place place) {
    Block& b = *block;
    count_access(place);
    if (!b.checks()) return;
    if (reinterpret_cast<uintptr_t>(address) % bytes != 0)
        fail({Kind::Misaligned, b.running, place}, "atomic access of %u bytes at an address that is not a multiple of that", bytes);
    const Manner manner{.is_write = true, .is_atomic = true};
    const Actor actor = b.clocks.actor(b.running);
    if (b.shared.contains(address)) {
        const u32 offset = b.shared.offset(address);
        b.shared.check_initialised(offset, bytes, b.running, place);
        b.shared.access(offset, bytes, actor, actor.stamp, manner, place);
    } else {
        b.global.access(address, bytes, actor, manner, place);
    }
}

template <class T>
T combine(T old, T value, Atomic how) {
    switch (how) {
        case Atomic::Add: return old + value;
        case Atomic::Max: return old < value ? value : old;
        case Atomic::Min: return value < old ? value : old;
        case Atomic::Exchange: return value;
        case Atomic::Or: return bits<T>(bits<u32>(old) | bits<u32>(value));
        case Atomic::And: return bits<T>(bits<u32>(old) & bits<u32>(value));
    }
    return value;
}

}  // namespace

template <class T>
T atomic(T* address, T value, Atomic how) {
    check(address, sizeof(T), __builtin_return_address(0));
    u32* word = reinterpret_cast<u32*>(address);
    u32 old = __atomic_load_n(word, __ATOMIC_SEQ_CST), next;
    do next = bits<u32>(combine(bits<T>(old), value, how));
    while (!__atomic_compare_exchange_n(word, &old, next, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    return bits<T>(old);
}

template <class T>
T atomic_compare_exchange(T* address, T expected, T desired) {
    check(address, sizeof(T), __builtin_return_address(0));
    __atomic_compare_exchange_n(address, &expected, desired, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return expected;
}

template int atomic(int*, int, Atomic);
template unsigned atomic(unsigned*, unsigned, Atomic);
template float atomic(float*, float, Atomic);
template unsigned atomic_compare_exchange(unsigned*, unsigned, unsigned);

}  // namespace emu

// Failures: recording them, leaving the block, and turning places into source lines.
#include "report.hpp"

#include <dlfcn.h>
#include <fcntl.h>
#include <spawn.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "block.hpp"

namespace emu {

void fail(const Fault& fault, const char* format, ...) {
    Failure& failure = block->failure;
    const u32 threads = block->block_threads, rank = block->threads[fault.thread].rank;
    failure.kind = static_cast<u32>(fault.kind);
    std::memcpy(failure.block, block->members[rank].index, sizeof failure.block);
    failure.thread = fault.thread % threads;
    failure.other_thread = fault.other_thread == nobody ? nobody : fault.other_thread % threads;
    failure.place = reinterpret_cast<u64>(fault.place);
    failure.other_place = reinterpret_cast<u64>(fault.other_place);
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(failure.text, sizeof failure.text, format, arguments);
    va_end(arguments);
    if (fault.other_thread != nobody && fault.other_thread / threads != rank) {
        const size_t length = std::strlen(failure.text);
        std::snprintf(failure.text + length, sizeof failure.text - length, " (the other's block has rank %u)", fault.other_thread / threads);
    }
    block->has_failed = true;
    Fibre abandoned;
    switch_fibre(abandoned, block->main);
    __builtin_unreachable();
}

namespace {

/// `addr2line` as a filter: it reads the debug information, most of its work, at the first address only.
class Addr2line {
   public:
    explicit Addr2line(const char* image) {
        int to[2], from[2];
        if (pipe2(to, O_CLOEXEC) != 0 || pipe2(from, O_CLOEXEC) != 0) return;
        posix_spawn_file_actions_t actions;
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_adddup2(&actions, to[0], 0);
        posix_spawn_file_actions_adddup2(&actions, from[1], 1);
        posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
        char* const arguments[] = {const_cast<char*>("addr2line"), const_cast<char*>("-ai"), const_cast<char*>("-e"), const_cast<char*>(image), nullptr};
        pid_t child;
        const bool is_there = posix_spawnp(&child, "addr2line", &actions, nullptr, arguments, environ) == 0;
        posix_spawn_file_actions_destroy(&actions);
        close(to[0]);
        close(from[1]);
        if (is_there) {
            to_ = fdopen(to[1], "w");
            from_ = fdopen(from[0], "r");
        } else {
            close(to[1]);
            close(from[0]);
        }
    }

    /// What it prints for one address: the innermost line first, then the lines it was inlined into. Empty where it is not there.
    std::string ask(u64 offset) {
        std::string answer;
        if (to_ == nullptr || from_ == nullptr) return answer;
        // Each answer begins with its address; that of 0, which is nowhere, ends ours.
        std::fprintf(to_, "0x%llx\n0x0\n", static_cast<unsigned long long>(offset));
        std::fflush(to_);
        char line[1024];
        u32 addresses = 0;
        while (std::fgets(line, sizeof line, from_) != nullptr) {
            const bool is_address = std::strncmp(line, "0x", 2) == 0;
            addresses += is_address ? 1 : 0;
            if (addresses == 2 && !is_address) return answer;
            if (addresses == 1 && !is_address) answer += line;
        }
        return answer;
    }

   private:
    FILE* to_ = nullptr;
    FILE* from_ = nullptr;
};

const char* file_name(const char* path) {
    const char* slash = std::strrchr(path, '/');
    return slash == nullptr ? path : slash + 1;
}

/// `vec.cuh:31 in rms_norm.cu:40`: files without folders, the emulator's own wrappers left out where a kernel's line follows.
std::string shorten(const std::string& answer) {
    std::string text;
    for (size_t at = 0; at < answer.size();) {
        const size_t end = std::min(answer.find('\n', at), answer.size());
        std::string line = answer.substr(at, end - at);
        at = end + 1;
        if (const size_t note = line.find(" (discriminator"); note != std::string::npos) line.resize(note);
        const char* name = file_name(line.c_str());
        const bool is_wrapper = std::strncmp(name, "device.hpp", 10) == 0 || std::strncmp(name, "ptx.cuh", 7) == 0;
        if (line.empty() || line[0] == '?' || (is_wrapper && at < answer.size())) continue;
        text += text.empty() ? name : std::string(" in ") + name;
    }
    return text;
}

/// The program's own file, for another process to read.
std::string program() { return "/proc/" + std::to_string(getpid()) + "/exe"; }

/// Kernels are linked into the program itself or into a library. Called by one thread at a time.
std::string find_line(u64 place) {
    static std::map<std::string, Addr2line>& filters = *new std::map<std::string, Addr2line>;
    Dl_info info;
    if (place == 0 || dladdr(reinterpret_cast<void*>(place), &info) == 0) return "an unknown place";
    const std::string file = std::strstr(file_name(info.dli_fname), ".so") != nullptr ? info.dli_fname : program();
    Addr2line& filter = filters.try_emplace(file, file.c_str()).first->second;
    const u64 offset = place - reinterpret_cast<u64>(info.dli_fbase);
    // The address returned to belongs to what follows the call; one byte before lies in the call.
    const std::string line = shorten(filter.ask(offset - 1));
    if (!line.empty()) return line;
    char raw[300];
    std::snprintf(raw, sizeof raw, "%s+0x%llx", file_name(info.dli_fname), static_cast<unsigned long long>(offset));
    return raw;
}

}  // namespace

namespace {

const std::string& line_of(u64 place) {
    static std::mutex mutex;
    static std::map<u64, std::string> known;
    const std::lock_guard<std::mutex> lock(mutex);
    auto found = known.find(place);
    if (found == known.end()) found = known.emplace(place, find_line(place)).first;
    return found->second;
}

}  // namespace

size_t describe(u64 place, char* text, size_t bytes) {
    const std::string& line = line_of(place);
    const size_t length = std::min(line.size(), bytes);
    std::memcpy(text, line.data(), length);
    return length;
}

bool is_same_line(Place first, Place second) {
    const std::string &one = line_of(reinterpret_cast<u64>(first)), &other = line_of(reinterpret_cast<u64>(second));
    return one == other || one.find("+0x") != std::string::npos || other.find("+0x") != std::string::npos;
}

}  // namespace emu

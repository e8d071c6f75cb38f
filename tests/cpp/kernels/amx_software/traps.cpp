// Tile instructions carried out when they trap: a processor without tiles raises SIGILL at each,
// the handler decodes it, works on the registers and memory of the interrupted kernel, and
// continues behind it. So the very object that the program ships runs, only slowly.
#include <ucontext.h>

#include <csignal>
#include <cstddef>
#include <cstdint>

#include "software.h"

namespace jang::kernels {
namespace {

#include "kernels/x86_amx/tile_config.inl"
#include "tile_model.inl"

constexpr int kRegisters[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                REG_R12, REG_R13, REG_R14, REG_R15};

// One instruction with a three-byte VEX prefix, ModRM and perhaps SIB and displacement.
struct Instruction {
  int opcode = 0, prefix = 0;     // prefix: 0 none, 1 66, 2 F3, 3 F2
  int reg = 0, rm = 0, vvvv = 0;  // tile numbers, where they are tiles
  bool memory = false;
  uint8_t* address = nullptr;  // of the memory operand, without its index
  int64_t index = 0;           // scaled: the stride of a tile
  int64_t length = 0;
};

bool decode(const mcontext_t& context, Instruction& out) {
  const auto value = [&](int number) {
    return static_cast<int64_t>(context.gregs[kRegisters[number]]);
  };
  const auto* const start = reinterpret_cast<const uint8_t*>(context.gregs[REG_RIP]);
  const uint8_t* p = start;
  constexpr int kMap0f38 = 2;
  if (p[0] != 0xc4 || (p[1] & 0x1f) != kMap0f38) return false;
  const int high_reg = (p[1] & 0x80) == 0 ? 8 : 0, high_index = (p[1] & 0x40) == 0 ? 8 : 0,
            high_base = (p[1] & 0x20) == 0 ? 8 : 0;
  out.vvvv = ~(p[2] >> 3) & 0xf;
  out.prefix = p[2] & 3;
  out.opcode = p[3];
  const int mod = p[4] >> 6;
  out.reg = (p[4] >> 3 & 7) + high_reg;
  out.rm = p[4] & 7;
  p += 5;
  out.memory = mod != 3;
  if (out.memory) {
    constexpr int kSib = 4, kNoIndex = 4, kNoBase = 5;
    int64_t base = 0;
    bool wide = mod == 2, from_next = false;
    if (out.rm == kSib) {
      const int sib = *p++;
      const int index = (sib >> 3 & 7) + high_index;
      if (index != kNoIndex) out.index = value(index) << (sib >> 6);
      if (mod == 0 && (sib & 7) == kNoBase) {
        wide = true;
      } else {
        base = value((sib & 7) + high_base);
      }
    } else if (mod == 0 && out.rm == kNoBase) {
      wide = from_next = true;
    } else {
      base = value(out.rm + high_base);
    }
    if (wide) {
      int32_t displacement;
      __builtin_memcpy(&displacement, p, 4);
      base += displacement;
      p += 4;
    } else if (mod == 1) {
      base += static_cast<int8_t>(*p++);
    }
    if (from_next) base += reinterpret_cast<int64_t>(p);
    out.address = reinterpret_cast<uint8_t*>(base);
  }
  out.length = p - start;
  return true;
}

bool carry_out(const Instruction& i) {
  const auto is = [&](int opcode, int prefix, bool memory) {
    return i.opcode == opcode && i.prefix == prefix && i.memory == memory;
  };
  if (is(0x49, 0, true)) {
    TileConfig config;
    __builtin_memcpy(&config, i.address, sizeof config);
    model_configure(config);
  } else if (is(0x49, 0, false)) {
    model_release();
  } else if (is(0x49, 3, false)) {
    model_zero(i.reg);
  } else if (is(0x4b, 3, true)) {
    model_load(i.reg, i.address, i.index);
  } else if (is(0x4b, 2, true)) {
    model_store(i.reg, i.address, i.index);
  } else if (is(0x5e, 1, false)) {
    model_dpbusd(i.reg, i.rm, i.vvvv);
  } else if (is(0x5c, 2, false)) {
    model_dpbf16ps(i.reg, i.rm, i.vvvv);
  } else {
    return false;
  }
  return true;
}

void on_illegal_instruction(int /*signal*/, siginfo_t* /*info*/, void* context) {
  mcontext_t& machine = static_cast<ucontext_t*>(context)->uc_mcontext;
  Instruction instruction;
  if (decode(machine, instruction) && carry_out(instruction)) {
    machine.gregs[REG_RIP] += instruction.length;
  } else {
    // Comes back at once, and this time ends the program.
    std::signal(SIGILL, SIG_DFL);
  }
}

}  // namespace

void carry_out_trapped_tiles() {
  struct sigaction action = {};
  action.sa_sigaction = on_illegal_instruction;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGILL, &action, nullptr);
}

}  // namespace jang::kernels

#include "arch/families/fused_blocks.h"

#include <utility>

namespace jang {

void fuse_qkv(AttentionSpec& attention, std::string path) {
  LinearSpec& q = attention.q;
  const int64_t rows = q.out + attention.k.out + attention.v.out;
  attention.qkv = LinearSpec{std::move(path), rows, q.in, q.bias};
  for (LinearSpec* part : {&q, &attention.k, &attention.v}) part->path.clear();
}

void fuse_gate_up(GatedMlpSpec& mlp, std::string path) {
  mlp.gate_up = LinearSpec{std::move(path), mlp.gate.out + mlp.up.out, mlp.gate.in, mlp.gate.bias};
  mlp.gate.path.clear();
  mlp.up.path.clear();
}

}  // namespace jang

// Stacks that a source does not hold as matrices of rows: packed as MXFP4, or transposed with gate
// and up in turn. They are made in memory once, by all threads, before the first token.
//
// MXFP4 becomes the affine format of 5 bits in groups of 32, which holds the same values (6 bits a
// weight where the file has 4.25), so that every kernel of that format serves it. What is only
// turned keeps its dtype.
#pragma once

#include <vector>

#include "arch/inventory.h"
#include "base/thread_pool.h"
#include "io/checkpoint.h"
#include "model/weights.h"

namespace jang {

/// The rows of `tensor`, which are all of one source and whose values do not lie in the checkpoint
/// as they are; matrices one behind the other. Throws as gather_values does.
SharedMemory gather_stack(const Checkpoint& checkpoint, const FinalTensor& tensor,
                          ThreadPool& pool);

/// The matrices of what gather_stack made of the same tensor.
std::vector<MatrixWeight> gathered_matrices(const FinalTensor& tensor,
                                            const AlignedBuffer<std::byte>& memory);

/// Bytes of that memory.
uint64_t gathered_bytes(const FinalTensor& tensor);

}  // namespace jang

// Signal over error in dB by group size (32, 64, 128), written by tools/prior_errors.py.
// clang-format off
{10.58, 9.91, 9.57},  // 2 bits
{16.83, 15.70, 15.01},  // 3 bits
{23.18, 21.82, 20.84},  // 4 bits
{29.42, 27.99, 26.89},  // 5 bits
{35.52, 34.08, 32.96},  // 6 bits
{47.48, 46.08, 44.98},  // 8 bits

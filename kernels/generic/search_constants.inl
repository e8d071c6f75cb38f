// Constants of the scale and bias search, shared by its scalar definition (reference/) and its
// vector form (generic/), which must give the same bits. Included by both inside the unnamed
// namespace of their table.

// Coarse candidates span [p1 * min, p2 * max] of the group with its mean removed, p1 and p2 from
// the row of the width: the fewer the levels, the more of the range is worth clipping. 1 is among
// them so that values that already lie on a lattice keep it.
constexpr int kGridPoints = 8;
constexpr float kGrid[9][kGridPoints] = {
    {},
    {},
    {0.36f, 0.46f, 0.56f, 0.66f, 0.76f, 0.88f, 1.0f, 1.06f},
    {0.50f, 0.58f, 0.66f, 0.74f, 0.83f, 0.92f, 1.0f, 1.04f},
    {0.60f, 0.67f, 0.74f, 0.81f, 0.88f, 0.94f, 1.0f, 1.03f},
    {0.72f, 0.77f, 0.82f, 0.87f, 0.92f, 0.96f, 1.0f, 1.02f},
    {0.82f, 0.86f, 0.89f, 0.92f, 0.95f, 0.98f, 1.0f, 1.01f},
    {},
    {0.93f, 0.945f, 0.96f, 0.97f, 0.98f, 0.99f, 1.0f, 1.005f},
};

constexpr int kSeeds = 4;        // best coarse candidates that are refined
constexpr int kRefitRounds = 2;  // (codes, least squares) rounds of each seed
constexpr int kNeighbours = 9;   // stored s and b, each with the values next to it

// A code that all elements share leaves the slope free; rounding hides less than this share of sum
// q^2.
constexpr float kDegenerate = 1e-6f;
// Errors below this (the largest value of a group is scaled into [1, 4)) count as none, so that a
// thread that flushes denormals to zero chooses the same candidate as one that does not.
constexpr float kNoError = 0x1p-90f;
// Values this far below the largest of their group count as zeros, for the same reason.
constexpr float kNegligible = 0x1p-60f;

// Steps of scaled groups are at least this, so that no quotient is a NaN.
constexpr float kSmallestStep = 0x1p-60f;

constexpr float kSmallestNormal = 0x1p-126f;
constexpr float kSmallestNormalHalf = 0x1p-14f;
// Adding and removing it rounds [0, 2^22] to integers, half to even.
constexpr float kRound = 0x1p23f;

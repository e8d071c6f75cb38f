// The steps of all hulls in order of slope are the path of the multiplier: the longest prefix that
// fits is what bisecting it would find. Exchanges of one or two items then use what is left.
#include "plan/search.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <tuple>

namespace jang {
namespace {

constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();

double slope(const Choice& from, const Choice& to) {
  return (from.loss - to.loss) / static_cast<double>(to.bytes - from.bytes);
}

struct Step {       // along the hull of an item, from one corner to the next
  double gain = 0;  // loss avoided per byte
  uint32_t item = 0;
  uint32_t to = 0;
  uint64_t bytes = 0;
};

struct Move {
  int64_t bytes = 0;  // change of an item's bytes and of its loss
  double loss = 0;
  uint32_t item = kNone;
  uint32_t to = 0;
};

class Search {
 public:
  Search(std::span<const SearchItem> items, uint64_t budget) : items_(items), budget_(budget) {}

  Selection run() {
    follow_multiplier();
    // Each exchange lowers the loss, so this ends by itself; the bound is for bad luck.
    const std::size_t rounds = 16 * items_.size() + 16;
    for (std::size_t i = 0; i < rounds && found_.bytes <= budget_ && exchange(); ++i) {
    }
    found_.loss = 0;
    for (std::size_t i = 0; i < items_.size(); ++i) found_.loss += current(i).loss;
    return std::move(found_);
  }

 private:
  const Choice& current(std::size_t item) const {
    return items_[item].choices[found_.choices[item]];
  }

  void take(const Move& move) {
    if (move.item == kNone) return;
    found_.choices[move.item] = move.to;
    found_.bytes = static_cast<uint64_t>(static_cast<int64_t>(found_.bytes) + move.bytes);
  }

  void follow_multiplier() {
    std::vector<Step> steps;
    for (uint32_t item = 0; item < items_.size(); ++item) {
      const std::vector<Choice>& choices = items_[item].choices;
      const std::vector<uint32_t> hull = lower_hull(choices);
      found_.choices.push_back(hull.front());
      found_.bytes += choices[hull.front()].bytes;
      for (std::size_t i = 1; i < hull.size(); ++i) {
        const Choice &from = choices[hull[i - 1]], &to = choices[hull[i]];
        steps.push_back({slope(from, to), item, hull[i], to.bytes - from.bytes});
      }
    }
    // Stable: of one slope, earlier items and earlier corners go first.
    std::stable_sort(steps.begin(), steps.end(),
                     [](const Step& a, const Step& b) { return a.gain > b.gain; });
    for (const Step& step : steps) {
      if (found_.bytes + step.bytes > budget_) return;
      found_.choices[step.item] = step.to;
      found_.bytes += step.bytes;
    }
  }

  /// The best change of one item or of two that fits; false if none lowers the loss.
  bool exchange() {
    collect_moves();
    const int64_t slack = static_cast<int64_t>(budget_ - found_.bytes);
    double scale = 0;
    for (std::size_t i = 0; i < items_.size(); ++i) scale += current(i).loss;
    double best = -1e-12 * scale;  // less is rounding
    Move first, second;
    for (const Move& move : moves_) {
      const int64_t room = slack - move.bytes;
      const auto end = std::upper_bound(moves_.begin(), moves_.end(), room,
                                        [](int64_t r, const Move& m) { return r < m.bytes; });
      if (end == moves_.begin()) continue;
      const auto& [one, other] = best_until_[static_cast<std::size_t>(end - moves_.begin()) - 1];
      const uint32_t partner = moves_[one].item != move.item ? one : other;
      if (partner == kNone) continue;
      const double change = move.loss + moves_[partner].loss;
      if (change < best) {
        best = change;
        first = move;
        second = moves_[partner];
      }
    }
    take(first);
    take(second);
    return first.item != kNone || second.item != kNone;
  }

  /// All moves by bytes, "none" among them, and for each prefix its best two of different items.
  void collect_moves() {
    moves_.assign(1, Move{});
    for (uint32_t item = 0; item < items_.size(); ++item) {
      const Choice& now = current(item);
      const std::vector<Choice>& choices = items_[item].choices;
      for (uint32_t to = 0; to < choices.size(); ++to) {
        if (to == found_.choices[item]) continue;
        moves_.push_back({static_cast<int64_t>(choices[to].bytes) - static_cast<int64_t>(now.bytes),
                          choices[to].loss - now.loss, item, to});
      }
    }
    std::stable_sort(moves_.begin(), moves_.end(),
                     [](const Move& a, const Move& b) { return a.bytes < b.bytes; });
    best_until_.clear();
    uint32_t one = kNone, other = kNone;
    for (uint32_t i = 0; i < moves_.size(); ++i) {
      if (one == kNone || moves_[i].loss < moves_[one].loss) {
        if (one != kNone && moves_[one].item != moves_[i].item) other = one;
        one = i;
      } else if (moves_[i].item != moves_[one].item &&
                 (other == kNone || moves_[i].loss < moves_[other].loss)) {
        other = i;
      }
      best_until_.emplace_back(one, other);
    }
  }

  std::span<const SearchItem> items_;
  uint64_t budget_;
  Selection found_;
  std::vector<Move> moves_;
  std::vector<std::pair<uint32_t, uint32_t>> best_until_;
};

}  // namespace

std::vector<uint32_t> lower_hull(std::span<const Choice> choices) {
  std::vector<uint32_t> order(choices.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    return std::tie(choices[a].bytes, choices[a].loss) <
           std::tie(choices[b].bytes, choices[b].loss);
  });
  std::vector<uint32_t> hull;
  for (const uint32_t i : order) {
    const Choice& next = choices[i];
    if (!hull.empty() && next.loss >= choices[hull.back()].loss) continue;
    while (hull.size() >= 2 && slope(choices[hull[hull.size() - 2]], choices[hull.back()]) <=
                                   slope(choices[hull.back()], next)) {
      hull.pop_back();
    }
    hull.push_back(i);
  }
  return hull;
}

Selection search_choices(std::span<const SearchItem> items, uint64_t budget) {
  return Search(items, budget).run();
}

}  // namespace jang

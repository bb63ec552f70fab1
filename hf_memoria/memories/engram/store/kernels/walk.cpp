// Two loops of reminding that torch's operators can only say with tensors as large as all pairs.
// Everything is per row, and rows are shared out over torch's threads.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

namespace {

using at::Tensor;

// Counts of one engram with the others, reset by undoing what was written.
struct Tally {
  std::vector<int32_t> counts;
  std::vector<int32_t> touched;
  std::vector<float> row;  // to work in

  explicit Tally(int64_t capacity) : counts(capacity, 0), row(capacity) {}

  void add(int32_t slot, int32_t weight) {
    if (counts[slot] == 0) touched.push_back(slot);
    counts[slot] += weight;
  }

  void clear() {
    for (int32_t slot : touched) counts[slot] = 0;
    touched.clear();
  }
};

// What fired together since the graph was made: [R, F] slots, -1 for nobody, and by slot the events it took part in,
// those of slot s at of_slot[first[s]] to of_slot[first[s + 1]].
struct Recent {
  const int32_t* events;
  int64_t number, width;
  std::vector<int32_t> first, of_slot;

  Recent(const int32_t* events, int64_t number, int64_t width, int64_t capacity)
      : events(events), number(number), width(width), first(capacity + 2, 0), of_slot(number * width) {
    for (int64_t place = 0; place < number * width; ++place)
      if (events[place] >= 0) ++first[events[place] + 2];
    for (int64_t slot = 2; slot < capacity + 2; ++slot) first[slot] += first[slot - 1];
    for (int64_t event = 0; event < number; ++event)
      for (int64_t place = 0; place < width; ++place)
        if (int32_t slot = events[event * width + place]; slot >= 0)
          of_slot[first[slot + 1]++] = static_cast<int32_t>(event);
  }

  void add_to(Tally& tally, int64_t current, const std::vector<uint8_t>& open) const {
    for (int32_t place = first[current]; place < first[current + 1]; ++place) {
      const int32_t* slots = events + of_slot[place] * width;
      for (int64_t member = 0; member < width; ++member)
        if (slots[member] >= 0 && open[slots[member]]) tally.add(slots[member], 1);
    }
  }
};

// The best of a row of counts, with what the tally holds on top. It is read from end to end, side by side in lanes,
// which a vector register takes at once.
int32_t best_of_row(const float* row, int64_t capacity, const std::vector<uint8_t>& open, Tally& tally) {
  constexpr int64_t lanes = 32;
  std::vector<float>& total = tally.row;
  for (int64_t slot = 0; slot < capacity; ++slot) total[slot] = open[slot] ? row[slot] : 0.0f;
  for (int32_t slot : tally.touched) total[slot] += static_cast<float>(tally.counts[slot]);
  float most[lanes] = {};
  int64_t slot = 0;
  for (; slot + lanes <= capacity; slot += lanes)
    for (int64_t lane = 0; lane < lanes; ++lane)
      most[lane] = most[lane] < total[slot + lane] ? total[slot + lane] : most[lane];
  float best = *std::max_element(most, most + lanes);
  for (; slot < capacity; ++slot) best = std::max(best, total[slot]);
  if (best <= 0.0f) return -1;
  return static_cast<int32_t>(std::find(total.begin(), total.begin() + capacity, best) - total.begin());
}

int32_t best_of_tally(const Tally& tally) {
  int32_t most = 0, found = -1;
  for (int32_t slot : tally.touched) {
    const int32_t count = tally.counts[slot];
    if (count > most || (count == most && slot < found)) {
      most = count;
      found = slot;
    }
  }
  return found;
}

struct Table {
  const float* counts;
  int64_t capacity;

  int32_t best(int64_t current, const std::vector<uint8_t>& open, const Recent& recent, Tally& tally) const {
    recent.add_to(tally, current, open);
    const int32_t found = best_of_row(counts + current * capacity, capacity, open, tally);
    tally.clear();
    return found;
  }
};

struct Log {
  const int32_t *events, *lists;
  const float* rows;
  const int32_t* row;
  int64_t width, longest, capacity;

  int32_t best(int64_t current, const std::vector<uint8_t>& open, const Recent& recent, Tally& tally) const {
    for (int64_t place = 0; place < longest; ++place) {
      const int32_t event = lists[current * longest + place];
      if (event < 0) break;
      const int32_t* slots = events + event * width;
      for (int64_t member = 0; member < width; ++member)
        if (slots[member] >= 0 && open[slots[member]]) tally.add(slots[member], 1);
    }
    recent.add_to(tally, current, open);
    const int32_t found = row[current] ? best_of_row(rows + row[current] * capacity, capacity, open, tally)
                                       : best_of_tally(tally);
    tally.clear();
    return found;
  }
};

template <typename Graph>
void walk_row(const Graph& graph, const Recent& recent, const bool* long_term, std::vector<int32_t> current,
              int64_t depth, int64_t capacity, bool* found) {
  std::vector<uint8_t> open(long_term, long_term + capacity);
  Tally tally(capacity);
  for (int64_t step = 0; step <= depth && !current.empty(); ++step) {
    std::vector<int32_t> following;
    for (int32_t slot : current)
      if (int32_t best = graph.best(slot, open, recent, tally); best >= 0) following.push_back(best);
    for (int32_t slot : following) {
      open[slot] = 0;
      found[slot] = true;
    }
    // Walks that met go on as one: they would take the same way.
    std::sort(following.begin(), following.end());
    following.erase(std::unique(following.begin(), following.end()), following.end());
    current = std::move(following);
  }
}

template <typename MakeGraph>
Tensor walk(MakeGraph graph_of, const Tensor& recent, const Tensor& long_term, const Tensor& index, const Tensor& mask,
            int64_t depth) {
  const int64_t batch = long_term.size(0), capacity = long_term.size(1), starts = index.size(1);
  Tensor found = at::zeros_like(long_term);
  at::parallel_for(0, batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const bool* may_be = long_term.const_data_ptr<bool>() + row * capacity;
      if (std::find(may_be, may_be + capacity, true) == may_be + capacity) continue;
      std::vector<int32_t> current;
      for (int64_t start = 0; start < starts; ++start)
        if (mask.const_data_ptr<bool>()[row * starts + start])
          current.push_back(static_cast<int32_t>(index.const_data_ptr<int64_t>()[row * starts + start]));
      const int64_t number = recent.size(1), width = recent.size(2);
      Recent events(recent.const_data_ptr<int32_t>() + row * number * width, number, width, capacity);
      walk_row(graph_of(row), events, may_be, std::move(current), depth, capacity,
               found.mutable_data_ptr<bool>() + row * capacity);
    }
  });
  return found;
}

Tensor walk_table(const Tensor& counts, const Tensor& recent, const Tensor& long_term, const Tensor& index,
                  const Tensor& mask, int64_t depth) {
  const int64_t capacity = long_term.size(1);
  const float* all = counts.const_data_ptr<float>();
  return walk([=](int64_t row) { return Table{all + row * capacity * capacity, capacity}; }, recent, long_term, index,
              mask, depth);
}

Tensor walk_log(const Tensor& events, const Tensor& lists, const Tensor& rows, const Tensor& row, const Tensor& recent,
                const Tensor& long_term, const Tensor& index, const Tensor& mask, int64_t depth) {
  const int64_t number = events.size(1), width = events.size(2), capacity = lists.size(1), longest = lists.size(2),
                often = rows.size(1);
  const int32_t *slots = events.const_data_ptr<int32_t>(), *listed = lists.const_data_ptr<int32_t>(),
                *row_of = row.const_data_ptr<int32_t>();
  const float* counts = rows.const_data_ptr<float>();
  return walk(
      [=](int64_t lane) {
        return Log{slots + lane * number * width, listed + lane * capacity * longest, counts + lane * often * capacity,
                   row_of + lane * capacity, width, longest, capacity};
      },
      recent, long_term, index, mask, depth);
}

// Squared distances of slots index [B, K] of data [B, C, D] to a centre [B, D], without gathering them first; zero where
// the mask [B, K] is false.
template <typename scalar>
void distances(const Tensor& data, const Tensor& index, const Tensor& mask, const Tensor& centre, Tensor& result) {
  const int64_t batch = index.size(0), picked = index.size(1), capacity = data.size(1), hidden = data.size(2);
  at::parallel_for(0, batch * picked, 64, [&](int64_t begin, int64_t end) {
    for (int64_t entry = begin; entry < end; ++entry) {
      if (!mask.const_data_ptr<bool>()[entry]) continue;
      const int64_t row = entry / picked, slot = index.const_data_ptr<int64_t>()[entry];
      const scalar* engram = data.const_data_ptr<scalar>() + (row * capacity + slot) * hidden;
      const float* middle = centre.const_data_ptr<float>() + row * hidden;
      // Partial sums side by side: what a vector register adds up, whatever the compiler knows of the machine.
      constexpr int64_t lanes = 32;
      float sums[lanes] = {};
      int64_t place = 0;
      for (; place + lanes <= hidden; place += lanes)
        for (int64_t lane = 0; lane < lanes; ++lane) {
          const float difference = static_cast<float>(engram[place + lane]) - middle[place + lane];
          sums[lane] += difference * difference;
        }
      float total = 0;
      for (; place < hidden; ++place) {
        const float difference = static_cast<float>(engram[place]) - middle[place];
        total += difference * difference;
      }
      for (float sum : sums) total += sum;
      result.mutable_data_ptr<float>()[entry] = total;
    }
  });
}

Tensor squared_distances(const Tensor& data, const Tensor& index, const Tensor& mask, const Tensor& centre) {
  Tensor result = at::zeros(index.sizes(), centre.options());
  if (data.scalar_type() == at::kBFloat16)
    distances<at::BFloat16>(data, index, mask, centre, result);
  else if (data.scalar_type() == at::kHalf)
    distances<at::Half>(data, index, mask, centre, result);
  else
    distances<float>(data, index, mask, centre, result);
  return result;
}

}  // namespace

TORCH_LIBRARY(hf_memoria, library) {
  library.def("walk_table(Tensor counts, Tensor recent, Tensor long_term, Tensor index, Tensor mask, int depth) -> Tensor");
  library.def(
      "walk_log(Tensor events, Tensor lists, Tensor rows, Tensor row, Tensor recent, Tensor long_term, Tensor index, "
      "Tensor mask, int depth) -> Tensor");
  library.def("squared_distances(Tensor data, Tensor index, Tensor mask, Tensor centre) -> Tensor");
}

TORCH_LIBRARY_IMPL(hf_memoria, CPU, library) {
  library.impl("walk_table", &walk_table);
  library.impl("walk_log", &walk_log);
  library.impl("squared_distances", &squared_distances);
}

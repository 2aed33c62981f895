// The public face of TableStore.
#include <utility>

#include "cuda/table_store.h"

namespace fastinc::cuda {

Table::Table(std::size_t dim, std::shared_ptr<Optimizer> optimizer, const Initializer& init,
             const TableBounds& bounds, int device)
    : store_(std::make_unique<TableStore>(dim, std::move(optimizer), init, bounds, device)) {}
Table::~Table() = default;

std::size_t Table::dim() const {
  return store_->dim();
}
std::size_t Table::size() const {
  return store_->size();
}
std::uint64_t Table::version() const {
  return store_->version();
}
Initializer Table::initializer() const {
  return store_->initializer();
}
TableBounds Table::bounds() const {
  return store_->bounds();
}
int Table::device() const {
  return store_->device();
}
void Table::lookup(const std::int64_t* ids, std::size_t n, float* out, Stream stream) const {
  store_->lookup(ids, n, out, stream);
}
void Table::lookup_quantized(const std::int64_t* ids, std::size_t n, std::uint8_t* out, Stream stream) const {
  store_->lookup_quantized(ids, n, out, stream);
}
void Table::pool(const std::int64_t* ids, std::size_t n, const std::int64_t* offsets, std::size_t bags,
                 PoolMode mode, const float* weights, float* out, Stream stream) const {
  store_->pool(ids, n, offsets, bags, mode, weights, out, stream);
}
void Table::contains(const std::int64_t* ids, std::size_t n, bool* out, Stream stream) const {
  store_->contains(ids, n, out, stream);
}
std::size_t Table::update(const std::int64_t* ids, std::size_t n, const float* grads, NonFinite policy,
                          Stream stream) {
  return store_->update(ids, n, grads, policy, stream);
}
void Table::load(const std::int64_t* ids, std::size_t n, const float* vectors, Stream stream) {
  store_->load(ids, n, vectors, stream);
}
std::size_t Table::remove(const std::int64_t* ids, std::size_t n, Stream stream) {
  return store_->remove(ids, n, stream);
}
void Table::advance() {
  store_->advance();
}
std::size_t Table::expire() {
  return store_->expire();
}
std::vector<std::int64_t> Table::ids() const {
  return store_->ids();
}
Changes Table::changes(std::uint64_t since) const {
  return store_->changes(since);
}
TableState Table::export_state() const {
  return store_->export_state();
}
void Table::import_state(const TableStateView& state) {
  store_->import_state(state);
}
std::vector<std::pair<std::string, std::size_t>> Table::memory_usage() const {
  return store_->memory_usage();
}
std::vector<std::pair<std::string, std::uint64_t>> Table::stats() const {
  return store_->stats();
}
double Table::load_factor() const {
  return store_->load_factor();
}

}  // namespace fastinc::cuda

//go:build invariants

package invariants

// Enabled says that the checks run.
const Enabled = true

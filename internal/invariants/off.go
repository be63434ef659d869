//go:build !invariants

// Package invariants switches the expensive self-checks: "go test -tags invariants" turns them on,
// as make test does. Cheap assertions do not ask it.
package invariants

// Enabled says that the checks run.
const Enabled = false

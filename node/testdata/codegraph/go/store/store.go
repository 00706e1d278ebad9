// Package store keeps things.
package store

import (
	"fmt"

	"example.com/shop/units"
)

// Store keeps things by name.
type Store struct {
	Base
	scale *Scale
	first units.Grams
}

// Reader reads.
type Reader interface {
	Read() units.Grams
}

const (
	Limit = 20
	Other = 21
)

// New makes a store.
func New() *Store {
	return &Store{scale: newScale()}
}

// Total weighs all of it.
func (s *Store) Total() units.Grams {
	s.Check(Limit)
	fmt.Println("x")
	g := s.scale.Read()
	return g.Double()
}

package store

import "example.com/shop/units"

type Base struct{}

func (b Base) Check(limit int) {}

type Scale struct{}

func newScale() *Scale { return &Scale{} }

func (s *Scale) Read() units.Grams {
	return units.Make(1)
}

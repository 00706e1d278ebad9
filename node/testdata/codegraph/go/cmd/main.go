package main

import (
	shop "example.com/shop/store"
)

func main() {
	s := shop.New()
	defer s.Total()
	func() { run(s) }()
}

func run(s *shop.Store) {
	total := s.Total()
	total.Double()
}

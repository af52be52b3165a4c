//go:build !linux

package main

// forgetPages does nothing here: see pages_linux.go.
func forgetPages() {}

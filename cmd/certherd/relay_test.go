package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRelayIsFoundInPath(t *testing.T) {
	folder := t.TempDir()
	t.Setenv("PATH", folder)
	if _, err := findRelay(); err == nil || !strings.Contains(err.Error(), "put it beside certherd, or into PATH") {
		t.Errorf("without the program: %v", err)
	}
	program := filepath.Join(folder, relayProgram)
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if found, err := findRelay(); err != nil || found != program {
		t.Errorf("found %q, %v", found, err)
	}
}

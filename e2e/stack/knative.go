package stack

import (
	"context"
	"errors"
)

const pebbleACME, pebbleManagement = private + ":14000", private + ":15000"

func (s *supervisor) startFull(context.Context, *authority, *cluster) error {
	return errors.New("only level ControlPlane can be started yet")
}

package main

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// What the kernel may leave to a device: checksums, and cutting what it sends into packets, so that most of
// the work is done for 64 KiB at a time.
const offloads = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_USO4 | unix.TUN_F_USO6

// A device is one end of the link.
type device struct {
	name string
	fd   int
}

// openDevice makes a TUN device in the namespace that a file stands for.
func openDevice(namespace string) (*device, error) {
	type made struct {
		device *device
		err    error
	}
	done := make(chan made)
	go func() {
		// The thread ends with this function, since it is never unlocked: nothing else runs in the namespace.
		runtime.LockOSThread()
		device, err := openHere(namespace)
		done <- made{device, err}
	}()
	result := <-done
	return result.device, result.err
}

func openHere(namespace string) (*device, error) {
	file, err := unix.Open(namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", namespace, err)
	}
	defer unix.Close(file)
	if err := unix.Setns(file, unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("cannot enter it: %w", err)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq("link%d")
	if err != nil {
		return nil, err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return nil, fmt.Errorf("cannot make a device: %w", err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offloads); err != nil {
		return nil, fmt.Errorf("cannot set its offloads: %w", err)
	}
	return &device{request.Name(), fd}, nil
}

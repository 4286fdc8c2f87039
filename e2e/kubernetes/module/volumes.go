package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/fsnotify/fsnotify"
)

// volumes is where the controller manager's host-path provisioner makes a folder for each volume; it knows no other place.
const volumes = "/tmp/hostpath_pv"

// openVolumes lets everybody write to the folders of volumes, those that are there and those to come. The provisioner
// makes them for root alone, and fsGroup does not apply to host paths: pods that do not run as root, as they should not,
// could not use their volumes. A folder is opened as soon as it is made, which is long before a pod can have it: the
// volume must be stored, bound and mounted first.
func openVolumes() error {
	if _, err := os.Stat(volumes); os.IsNotExist(err) {
		return nil
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	if err := watcher.Add(volumes); err != nil {
		return err
	}
	made, err := filepath.Glob(filepath.Join(volumes, "*"))
	if err != nil {
		return err
	}
	for _, folder := range made {
		open(folder)
	}
	go func() {
		for {
			select {
			case event := <-watcher.Events:
				if event.Has(fsnotify.Create) {
					open(event.Name)
				}
			case err := <-watcher.Errors:
				fmt.Fprintf(os.Stderr, "watch of %s: %v\n", volumes, err)
			}
		}
	}()
	return nil
}

func open(folder string) {
	// One that was deleted meanwhile needs nothing.
	if err := os.Chmod(folder, 0o777); err != nil && !os.IsNotExist(err) {
		fmt.Fprintln(os.Stderr, err)
	}
}

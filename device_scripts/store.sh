# The store on a device: objects by SHA-256, directories made of hard links to them (see edgekit/deploy/store.py).
# Run as `sh -c SCRIPT sh COMMAND ROOT ...`; must work with toybox (Android), busybox and dash.
#   survey ROOT DIRECTORY THOROUGH   files on stdin; tells what is there, removes what is broken or left over
#   accept ROOT SHA256 MODE          takes an uploaded object in, once it proves to be what it should be
#   publish ROOT DIRECTORY           files on stdin; makes the directory appear, whole, by one rename
# A file is a line "SHA256 MODE NAME".
#
# Layout:  ROOT/objects/SHA256   ROOT/stamps/...   ROOT/bundles/ID/...   ROOT/runtimes/ID/...   *.part is unfinished.
# A stamp is what `stat` said of a file when its digest was last found right. While it says the same, nobody wrote
# to the file, and it need not be read again. The change time is part of it, which no program can set.
set -u
command=$1 root=$2
objects=$root/objects stamps=$root/stamps

die() {
    echo "$*" >&2
    exit 1
}
stamp_of() { stat -c '%i %s %y %z' "$1" 2>/dev/null; }
write_stamp() { # FILE STAMP
    { stamp_of "$1" >"$2"; } 2>/dev/null
    return 0
}
digest_of() {
    digest=$(sha256sum <"$1") || return 1
    echo "${digest%% *}"
}
intact() { # FILE SHA256 STAMP THOROUGH
    [ -f "$1" ] && [ ! -L "$1" ] || return 1
    now=$(stamp_of "$1")
    if [ "$4" = no ] && [ -n "$now" ] && [ -r "$3" ]; then
        IFS= read -r before <"$3"
        [ "$now" = "$before" ] && return 0
    fi
    [ "$(digest_of "$1")" = "$2" ] || return 1
    write_stamp "$1" "$3"
}
split() { # LINE
    sha=${1%% *} rest=${1#* }
    mode=${rest%% *} name=${rest#* }
}

survey() { # DIRECTORY THOROUGH
    directory=$1 thorough=$2
    command -v sha256sum >/dev/null 2>&1 || die "this device has no sha256sum"
    mkdir -p "$objects" "$stamps" "$root/bundles" "$root/runtimes" || exit 1
    # Nobody else writes now: the host holds a lock for this device.
    rm -rf "$root"/*.part "$objects"/*.part "$root"/bundles/*.part "$root"/runtimes/*.part 2>/dev/null
    writable=no links=no
    # Not `:`: in a special builtin a failed redirection would end the shell.
    if { true >"$root/link.part"; } 2>/dev/null; then
        writable=yes
        # Android's policy, FAT and some overlays refuse hard links.
        ln "$root/link.part" "$root/link2.part" 2>/dev/null && links=yes
        rm -f "$root/link.part" "$root/link2.part"
    fi
    whole=yes
    while IFS= read -r line; do
        split "$line"
        object=$objects/$sha placed=$root/$directory/$name
        stamp=$stamps/$sha placed_stamp=$stamps/${directory##*/}.$sha
        if intact "$object" "$sha" "$stamp" "$thorough"; then
            echo "have $sha"
            [ "$object" -ef "$placed" ] || intact "$placed" "$sha" "$placed_stamp" "$thorough" || whole=no
        elif intact "$placed" "$sha" "$placed_stamp" "$thorough"; then
            # The object was removed or damaged, its copy or other link was not.
            rm -f "$object" 2>/dev/null
            if ln "$placed" "$object" 2>/dev/null || cp "$placed" "$object" 2>/dev/null; then
                write_stamp "$object" "$stamp"
                write_stamp "$placed" "$placed_stamp"
                echo "have $sha"
            else
                echo "missing $sha"
            fi
        else
            rm -f "$object" "$stamp" 2>/dev/null
            echo "missing $sha"
            whole=no
        fi
    done
    # What is broken there must not be run, and it holds on to space.
    [ "$whole" = yes ] || rm -rf "${root:?}/$directory" "$stamps/${directory##*/}".* 2>/dev/null
    echo "whole $whole"
    echo "links $links"
    echo "writable $writable"
    echo "disk"
    df -kP "$root"
}

accept() { # SHA256 MODE
    sha=$1 mode=$2 part=$objects/$1.part
    found=$(digest_of "$part") || exit 1
    if [ "$found" != "$sha" ]; then
        rm -f "$part"
        die "SHA-256 $found arrived instead of $sha"
    fi
    chmod "$mode" "$part" && mv -f "$part" "$objects/$sha" || exit 1
    write_stamp "$objects/$sha" "$stamps/$sha"
}

publish() { # DIRECTORY
    directory=$1 work=$root/$1.part list=$root/list.part
    rm -rf "$work"
    cat >"$list" || exit 1
    while IFS= read -r line; do
        split "$line"
        target=$work/$name
        mkdir -p "${target%/*}" || exit 1
        case $mode in *[1357]*) [ -x "$objects/$sha" ] || chmod "$mode" "$objects/$sha" ;; esac
        if ! ln "$objects/$sha" "$target" 2>/dev/null; then
            cp "$objects/$sha" "$target" && chmod "$mode" "$target" || exit 1
            [ "$(digest_of "$target")" = "$sha" ] || die "the copy of $name is not what it should be"
        fi
        case $mode in *[1357]*) [ -x "$target" ] || die "programs may not run from $root (mounted noexec)" ;; esac
    done <"$list"
    [ ! -e "$root/$directory" ] || die "$root/$directory is in the way"
    mv "$work" "$root/$directory" || exit 1
    while IFS= read -r line; do
        split "$line"
        # A new link changes the object's stamp.
        write_stamp "$objects/$sha" "$stamps/$sha"
        [ "$objects/$sha" -ef "$root/$directory/$name" ] ||
            write_stamp "$root/$directory/$name" "$stamps/${directory##*/}.$sha"
    done <"$list"
    rm -f "$list"
}

shift 2
case $command in
survey | accept | publish) "$command" "$@" ;;
*) die "unknown command $command" ;;
esac

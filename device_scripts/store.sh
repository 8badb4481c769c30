# The store on a device: each content once, in directories that appear whole (see edgekit/deploy/store.py).
# Run as `sh -c SCRIPT sh COMMAND ROOT LEASE ...`; must work with toybox (Android), busybox and dash.
#   lease ROOT LEASE OWNER MINUTES         asks to be the only one who writes; tells whether, and who is it otherwise
#   release ROOT LEASE                     gives that up
#   survey ROOT LEASE DIRECTORY THOROUGH   files on stdin; tells what is there
#   clear ROOT LEASE DIRECTORY             files on stdin; removes a directory that is not whole, keeping what is good
#   digest ROOT LEASE SHA256               digest of what has arrived of an object
#   accept ROOT LEASE SHA256 MODE          takes an uploaded object in, once it proves to be what it should be
#   publish ROOT LEASE DIRECTORY           files on stdin; makes the directory appear, whole, by one rename
#   pin, unpin ROOT LEASE DIRECTORY        keeps a directory from `collect`, or no longer
#   list ROOT LEASE                        every directory: its age in days, size in KiB, whether it is pinned
#   collect ROOT LEASE DIRECTORY...        removes directories, and contents that lie in none
# A file is a line "SHA256 MODE NAME". LEASE is a word that each writer makes up; "none" where nothing can be written.
#
# Layout:  ROOT/objects/SHA256   ROOT/bundles/ID/...   ROOT/runtimes/ID/...   ROOT/stamps/...   *.part is unfinished.
# Files in directories are hard links to objects. Where links are refused (Android's policy), an object moves into
# the first directory that needs it, and ROOT/objects/SHA256.at says where it went; further ones get copies.
# A stamp is what `stat` said of a file when its digest was last found right. While it says the same, nobody wrote
# to the file, and it need not be read again. The change time is part of it, which no program can set.
# ROOT/lease names the one writer. Each of its commands renews it; one that was not renewed for MINUTES is void.
# ROOT is closed to other users of the device: adbd makes files that everybody may write to. Where it was open before,
# stamps prove nothing; where it belongs to somebody else, it is not used.
set -u
umask 077
command=$1 root=$2 token=$3
objects=$root/objects stamps=$root/stamps pins=$root/pins

die() {
    echo "$*" >&2
    exit 1
}
stamp_of() { stat -c '%i %s %y %z' "$1" 2>/dev/null; }
write_stamp() { # FILE STAMP
    { stamp_of "$1" >"$2"; } 2>/dev/null
    return 0
}
write_line() { # TEXT FILE
    { echo "$1" >"$2"; } 2>/dev/null
    return 0
}
digest_of() {
    # Hundreds of megabytes take minutes on a slow device.
    [ "$token" = none ] || held
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
split() { # LINE: sets sha, mode, name, and where the file's content may lie with the stamps of each place
    sha=${1%% *} rest=${1#* }
    mode=${rest%% *} name=${rest#* }
    object=$objects/$sha stamp=$stamps/$sha
    placed=$root/$directory/$name placed_stamp=$stamps/${directory##*/}.$sha
}
elsewhere() { # sets where the object went, relative to ROOT, and the stamp of it there
    at=
    [ -r "$object.at" ] && IFS= read -r at <"$object.at"
    [ -n "$at" ] || return 1
    at_id=${at#*/}
    at_stamp=$stamps/${at_id%%/*}.$sha
}

lease() { # OWNER MINUTES
    mkdir -p "$root" 2>/dev/null
    ours "$root" || die "$root belongs to another user of this device, who could change what lies there"
    if ! { true >"$root/$token.part"; } 2>/dev/null; then
        # A store that holds nothing goes with its last writer, perhaps at this moment.
        mkdir -p "$root" 2>/dev/null
        if ! { true >"$root/$token.part"; } 2>/dev/null; then
            echo "lease unwritable"
            return
        fi
    fi
    rm -f "$root/$token.part"
    minutes=$2 moved=$root/lease.$token.part
    if [ -d "$root/lease" ] && void "$root/lease" && mv "$root/lease" "$moved" 2>/dev/null; then
        # Of those who see that it is void, one moves it away; the next may find that of who was faster.
        if void "$moved"; then rm -rf "$moved"; else mv "$moved" "$root/lease" 2>/dev/null; fi
    fi
    full=yes
    for _ in 1 2 3; do
        if mkdir "$root/lease" 2>/dev/null; then
            { echo "$token" >"$root/lease/token" && echo "$1" >"$root/lease/owner"; } 2>/dev/null && full=no && break
            # Full to the last byte: a lease of nobody would keep everybody out.
            rm -rf "$root/lease"
        fi
        [ -d "$root/lease" ] && full=no && break
        # Just given up, perhaps with the store, or there is no room for a folder.
        mkdir -p "$root" 2>/dev/null
    done
    if [ "$full" = yes ]; then
        echo "lease unwritable"
        return
    fi
    if held; then
        echo "lease granted"
    else
        owner=
        [ -r "$root/lease/owner" ] && IFS= read -r owner <"$root/lease/owner"
        echo "lease held by ${owner:-somebody}"
    fi
}
void() { # LEASE: whether nobody renewed it for too long
    [ -n "$(find "$1" -prune -mmin "+$minutes" 2>/dev/null)" ]
}
ours() { # DIRECTORY: whether nobody else can write there; who could until now may have
    [ -d "$1" ] || return 0
    owner=$(stat -Lc %u "$1") mode=$(stat -Lc %a "$1")
    me=$(while read -r key real effective rest; do [ "$key" = Uid: ] && echo "$effective"; done </proc/self/status)
    # For root, also a folder of whoever the folder around it belongs to: it may serve a user who is not root.
    [ "$owner" = "$me" ] || [ "$owner" = 0 ] || { [ "$me" = 0 ] && [ "$owner" = "$(stat -Lc %u "$1/..")" ]; } || return 1
    case $mode in *[2367] | *[2367]?) close_to_others "$1" || return 1 ;; esac
    [ "$mode" = 700 ] || [ "$owner" != "$me" ] || chmod 700 "$1" 2>/dev/null
    return 0
}
close_to_others() { # DIRECTORY: takes what others may have put there for what it is; whether nothing of theirs remains
    rm -rf "$1/stamps" 2>/dev/null
    for part in objects stamps bundles runtimes pins; do
        if [ ! -L "$1/$part" ]; then
            [ -e "$1/$part" ] || continue
            case " $me 0 $owner " in *" $(stat -c %u "$1/$part") "*) continue ;; esac
        fi
        # Who owns a folder, or the one to which a link leads, writes there whatever is around it.
        rm -rf "$1/$part" 2>/dev/null
        [ ! -e "$1/$part" ] && [ ! -L "$1/$part" ] || return 1
    done
    # And who is in one already.
    find "$1" -type d -exec chmod go-w {} \; 2>/dev/null
    return 0
}
held() { # renews it, too
    holder=
    [ -r "$root/lease/token" ] && IFS= read -r holder <"$root/lease/token"
    [ "$holder" = "$token" ] && touch "$root/lease" 2>/dev/null
}
release() {
    held || return 0
    # Where nothing was stored, nothing stays.
    rmdir "$objects" 2>/dev/null && rmdir "$stamps" "$pins" "$root/bundles" "$root/runtimes" 2>/dev/null
    rm -rf "$root/lease"
    rmdir "$root" 2>/dev/null
    return 0
}
to_disk() { # FILE...: a power failure must not leave a name without its content
    fsync "$@" 2>/dev/null || sync "$@" 2>/dev/null || sync
}

survey() { # DIRECTORY THOROUGH
    directory=$1 thorough=$2
    command -v sha256sum >/dev/null 2>&1 || die "this device has no sha256sum"
    if [ "$token" != none ]; then
        mkdir -p "$objects" "$stamps" "$root/bundles" "$root/runtimes" || exit 1
        rm -rf "$root"/*.part "$root"/bundles/*.part "$root"/runtimes/*.part 2>/dev/null
    fi
    writable=no links=no wanted=
    # Not `:`: in a special builtin a failed redirection would end the shell.
    if { true >"$root/link.part"; } 2>/dev/null; then
        writable=yes
        ln "$root/link.part" "$root/link2.part" 2>/dev/null && links=yes
        rm -f "$root/link.part" "$root/link2.part"
    fi
    whole=yes
    while IFS= read -r line; do
        split "$line"
        if intact "$object" "$sha" "$stamp" "$thorough"; then
            echo "have $sha"
            [ "$object" -ef "$placed" ] || intact "$placed" "$sha" "$placed_stamp" "$thorough" || whole=no
            continue
        fi
        rm -f "$object" "$stamp" 2>/dev/null
        if intact "$placed" "$sha" "$placed_stamp" "$thorough"; then
            echo "have $sha"
            if [ "$links" = yes ] && ln "$placed" "$object"; then
                write_stamp "$object" "$stamp"
                write_stamp "$placed" "$placed_stamp"
            fi
            continue
        fi
        whole=no
        if elsewhere && intact "$root/$at" "$sha" "$at_stamp" "$thorough"; then
            echo "have $sha"
            echo "copy $sha"
        else
            rm -f "$object.at" 2>/dev/null
            # A device that failed before a file that arrives had its name (see AdbdDevice.push).
            for part in "$object.part".*.part; do
                [ -e "$object.part" ] || [ ! -e "$part" ] || mv "$part" "$object.part" 2>/dev/null
            done
            wanted="$wanted $sha.part"
            echo "missing $sha"
        fi
    done
    # Of what an interrupted push left, the begin of what is needed now is worth keeping.
    for part in "$objects"/*.part; do
        [ -f "$part" ] || continue
        file=${part##*/}
        case "$wanted " in
        *" $file "*) echo "part ${file%.part} $(stat -c %s "$part")" ;;
        *) rm -f "$part" ;;
        esac
    done 2>/dev/null
    # So `collect` sees that it is in use.
    [ "$whole" = yes ] && touch "$root/$directory" 2>/dev/null
    echo "whole $whole"
    echo "links $links"
    echo "writable $writable"
    [ ! -d "$root" ] || room
}

room() {
    echo "disk"
    df -kP "$root"
}

clear() { # DIRECTORY
    directory=$1
    while IFS= read -r line; do
        split "$line"
        # Just surveyed, so stamps tell what is good.
        if [ ! -e "$object" ] && intact "$placed" "$sha" "$placed_stamp" no; then
            mv "$placed" "$object" || exit 1
            rm -f "$object.at"
            write_stamp "$object" "$stamp"
        fi
    done
    # What is broken there must not be run, and it holds on to space.
    rm -rf "${root:?}/$directory" "$stamps/${directory##*/}".*
    room
}

digest() { # SHA256
    digest_of "$objects/$1.part"
}

accept() { # SHA256 MODE
    sha=$1 mode=$2 part=$objects/$1.part
    found=$(digest_of "$part") || exit 1
    if [ "$found" != "$sha" ]; then
        rm -f "$part"
        die "SHA-256 $found arrived instead of $sha"
    fi
    to_disk "$part"
    chmod "$mode" "$part" && mv -f "$part" "$objects/$sha" || exit 1
    write_stamp "$objects/$sha" "$stamps/$sha"
}

copy() { # FILE TARGET
    cp "$1" "$2" && chmod "$mode" "$2" || exit 1
    [ "$(digest_of "$2")" = "$sha" ] || die "the copy of $name is not what it should be"
}

publish() { # DIRECTORY
    directory=$1 work=$root/$1.part list=$root/list.part
    rm -rf "$work"
    cat >"$list" || exit 1
    while IFS= read -r line; do
        split "$line"
        target=$work/$name
        mkdir -p "${target%/*}" || exit 1
        if [ -e "$object" ]; then
            case $mode in *[1357]*) [ -x "$object" ] || chmod "$mode" "$object" ;; esac
            if ! ln "$object" "$target" 2>/dev/null; then
                mv "$object" "$target" || exit 1
                rm -f "$stamp"
                write_line "$directory.part/$name" "$object.at"
            fi
        elif elsewhere; then
            copy "$root/$at" "$target"
        else
            die "$name vanished from the store"
        fi
        case $mode in *[1357]*) [ -x "$target" ] || die "programs may not run from $root (mounted noexec)" ;; esac
    done <"$list"
    [ ! -e "$root/$directory" ] || die "$root/$directory is in the way"
    mv "$work" "$root/$directory" || exit 1
    while IFS= read -r line; do
        split "$line"
        if [ "$object" -ef "$placed" ]; then
            # A new link changes the object's stamp.
            write_stamp "$object" "$stamp"
        else
            write_line "$directory/$name" "$object.at"
            write_stamp "$placed" "$placed_stamp"
        fi
    done <"$list"
    rm -f "$list"
}

pin() { # DIRECTORY
    [ -d "$root/$1" ] || die "no $1 in $root"
    mkdir -p "$pins" && true >"$pins/${1##*/}"
}
unpin() { # DIRECTORY
    rm -f "$pins/${1##*/}"
}

list() {
    now=$(date +%s)
    for path in "$root"/bundles/* "$root"/runtimes/*; do
        case $path in *.part) continue ;; esac
        [ -d "$path" ] || continue
        used=$(stat -c %Y "$path") kib=$(du -sk "$path") pinned=no
        [ -e "$pins/${path##*/}" ] && pinned=yes
        echo "directory ${path#"$root"/} $(((now - used) / 86400)) ${kib%%[!0-9]*} $pinned"
    done
    room
}

collect() { # DIRECTORY...
    for directory in "$@"; do
        case $directory in bundles/*/* | runtimes/*/* | *..*) die "$directory is no directory of the store" ;; esac
        case $directory in bundles/?* | runtimes/?*) ;; *) die "$directory is no directory of the store" ;; esac
        # Out of sight first: what is half removed must not be taken for whole.
        mv "$root/$directory" "$root/$directory.part" && rm -rf "$root/$directory.part" || exit 1
        rm -f "$stamps/${directory##*/}".* "$pins/${directory##*/}"
    done
    for object in "$objects"/*; do
        case $object in
        *.part) rm -f "$object" ;;
        *.at)
            IFS= read -r at <"$object"
            [ -e "$root/$at" ] || rm -f "$object"
            ;;
        *)
            if [ -f "$object" ] && [ "$(stat -c %h "$object")" = 1 ]; then
                rm -f "$object" "$stamps/${object##*/}"
            fi
            ;;
        esac
    done
    room
}

shift 3
case $command in
lease | release | list) ;;
survey) [ "$token" = none ] || held || die "the lease on $root was lost to another writer" ;;
*) held || die "the lease on $root was lost to another writer" ;;
esac
case $command in
lease | release | survey | clear | digest | accept | publish | pin | unpin | list | collect) "$command" "$@" ;;
*) die "unknown command $command" ;;
esac
